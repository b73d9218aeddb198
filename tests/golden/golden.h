// Golden values of tests/golden, and the models that some of them need.
#ifndef TESSERA_TESTS_GOLDEN_GOLDEN_H_
#define TESSERA_TESTS_GOLDEN_GOLDEN_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tessera {

// Logits of one row that were thought worth keeping: the likeliest tokens.
struct TopLogits {
  std::vector<uint32_t> ids;
  std::vector<float> logits;
};

struct GoldenPrefill {
  std::vector<uint32_t> ids;
  std::vector<TopLogits> rows;  // one per position
  std::vector<float> log_sum;   // logarithm of the sum of e^logit over the vocabulary
};

struct GoldenBlend {
  std::string policy;
  bool correction = false;
  double ratio = 0;
  std::vector<int32_t> picked;
  TopLogits top;
  std::vector<uint32_t> greedy;
};

struct GoldenPrompt {
  std::vector<std::vector<uint32_t>> segments;
  std::string sink;
  TopLogits full_top;
  std::vector<uint32_t> full_greedy;
  std::vector<GoldenBlend> blends;
};

struct GoldenFamily {
  std::string name;
  std::string config;  // config.json
  std::vector<uint32_t> ids;
  std::vector<std::vector<float>> logits;  // of the last rows
};

std::vector<GoldenPrefill> ReadGoldenPrefill();
std::vector<GoldenPrompt> ReadGoldenBlend();
std::vector<GoldenFamily> ReadGoldenFamilies();

// Folder of a model by name, of those in $TESSERA_MODELS (joined by colons); empty when it is not
// there: skip the test with a message.
std::string ModelFolder(const std::string& name);

}  // namespace tessera

#endif  // TESSERA_TESTS_GOLDEN_GOLDEN_H_
