#include "gateway/router/rendezvous.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "xxhash.h"

namespace tessera {
namespace {

struct Votes {
  size_t held = 0;     // tokens of chunks that it has in memory
  size_t guessed = 0;  // tokens of unknown chunks whose hash it won
};

size_t Winner(uint64_t chunk, std::span<const WorkerLoad> workers) {
  size_t best = 0;
  uint64_t best_weight = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    const std::string& address = workers[i].address;
    const uint64_t weight = XXH3_64bits_withSeed(address.data(), address.size(), chunk);
    if (i == 0 || weight > best_weight) {
      best = i;
      best_weight = weight;
    }
  }
  return best;
}

std::vector<Votes> Count(std::span<const ChunkVote> chunks, std::span<const WorkerLoad> workers) {
  std::vector<Votes> votes(workers.size());
  for (const ChunkVote& chunk : chunks) {
    for (const size_t holder : chunk.holders) votes[holder].held += chunk.tokens;
    if (chunk.holders.empty()) votes[Winner(chunk.hash, workers)].guessed += chunk.tokens;
  }
  return votes;
}

RoutedBy Reason(const Votes& votes) {
  if (votes.held > 0) return RoutedBy::kAffinity;
  return votes.guessed > 0 ? RoutedBy::kHash : RoutedBy::kLoad;
}

}  // namespace

std::vector<RankedWorker> RankWorkers(std::span<const ChunkVote> chunks,
                                      std::span<const WorkerLoad> workers, size_t slack) {
  if (workers.empty()) return {};
  const std::vector<Votes> votes = Count(chunks, workers);
  std::vector<RankedWorker> order;
  size_t idlest = std::numeric_limits<size_t>::max();
  for (size_t i = 0; i < workers.size(); ++i) {
    order.push_back({.index = i, .by = Reason(votes[i])});
    if (!workers[i].avoid) idlest = std::min(idlest, workers[i].in_flight);
  }
  const auto rank = [&](size_t i) {
    const WorkerLoad& worker = workers[i];
    const bool busy = worker.in_flight >= slack && worker.in_flight - slack >= idlest;
    // Descending votes, as unsigned numbers that sort upwards.
    return std::tuple(worker.avoid, busy, ~(votes[i].held + votes[i].guessed), ~votes[i].held,
                      worker.in_flight, i);
  };
  std::sort(order.begin(), order.end(), [&](const RankedWorker& a, const RankedWorker& b) {
    return rank(a.index) < rank(b.index);
  });
  return order;
}

}  // namespace tessera
