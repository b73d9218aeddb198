// Prompts of made-up tokens, and what a bench says of several runs.
#ifndef TESSERA_TESTS_BENCH_MADE_UP_H_
#define TESSERA_TESTS_BENCH_MADE_UP_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace tessera {

// `count` tokens below `vocab` that depend on `seed`.
inline std::vector<uint32_t> MadeUpTokens(uint64_t seed, int64_t count, int64_t vocab) {
  std::vector<uint32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    ids.push_back(static_cast<uint32_t>((seed >> 33) % static_cast<uint64_t>(vocab)));
  }
  return ids;
}

inline double Median(std::vector<double> numbers) {
  std::sort(numbers.begin(), numbers.end());
  return numbers[numbers.size() / 2];
}

}  // namespace tessera

#endif  // TESSERA_TESTS_BENCH_MADE_UP_H_
