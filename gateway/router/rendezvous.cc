#include "gateway/router/rendezvous.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "xxhash.h"

namespace tessera {
namespace {

size_t Winner(const worker::v1::Segment& segment, std::span<const WorkerLoad> workers) {
  const auto& ids = segment.token_ids();
  const uint64_t key = XXH3_64bits(ids.data(), ids.size() * sizeof(uint32_t));
  size_t best = 0;
  uint64_t best_weight = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    const std::string& address = workers[i].address;
    const uint64_t weight = XXH3_64bits_withSeed(address.data(), address.size(), key);
    if (i == 0 || weight > best_weight) {
      best = i;
      best_weight = weight;
    }
  }
  return best;
}

}  // namespace

std::vector<size_t> RankWorkers(const worker::v1::GenerateRequest& request,
                                std::span<const WorkerLoad> workers, size_t slack) {
  std::vector<size_t> order(workers.size());
  std::iota(order.begin(), order.end(), 0);
  if (workers.size() < 2) return order;

  std::vector<size_t> votes(workers.size(), 0);
  const int segments = request.segments_size();
  for (int i = 0; i < std::max(1, segments - 1) && i < segments; ++i) {
    votes[Winner(request.segments(i), workers)] += request.segments(i).token_ids_size();
  }
  size_t idlest = workers[0].in_flight;
  for (const WorkerLoad& worker : workers) idlest = std::min(idlest, worker.in_flight);

  const auto rank = [&](size_t i) {
    const bool busy = workers[i].in_flight >= idlest + slack;
    // Descending votes, as unsigned numbers that sort upwards.
    return std::tuple(busy, ~votes[i], workers[i].in_flight, i);
  };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return rank(a) < rank(b); });
  return order;
}

}  // namespace tessera
