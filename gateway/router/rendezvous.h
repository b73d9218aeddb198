// Which workers to try for a request, best first.
#ifndef TESSERA_GATEWAY_ROUTER_RENDEZVOUS_H_
#define TESSERA_GATEWAY_ROUTER_RENDEZVOUS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tessera {

// A chunk of the request that looks for a worker.
struct ChunkVote {
  uint64_t hash = 0;
  size_t tokens = 0;
  // Which of the workers have it in memory; empty: not known.
  std::vector<size_t> holders;
};

struct WorkerLoad {
  std::string address;
  // Requests that this gateway has running there.
  size_t in_flight = 0;
  // It answers, but turned a request away a moment ago: only if nobody else can.
  bool avoid = false;
};

// Why a worker is where it is in the order.
enum class RoutedBy { kAffinity, kHash, kLoad };

struct RankedWorker {
  size_t index = 0;  // into the workers
  RoutedBy by = RoutedBy::kLoad;
};

// Every chunk gives its tokens as votes: to the workers that have it in memory; if none is known,
// to the winner of its rendezvous hash, so that unknown chunks meet the same worker on every
// gateway, and few move when workers come or go. Most votes win; then most tokens in memory; then
// fewer requests in flight. So who has half of the tokens is not outvoted by guesses, and a short
// lead that all prompts share does not draw all of them to the first worker that saw it. Workers
// with `slack` requests more than the idlest come after all others, and those to avoid last: a
// chunk's home is worth a fetch, not a queue.
std::vector<RankedWorker> RankWorkers(std::span<const ChunkVote> chunks,
                                      std::span<const WorkerLoad> workers, size_t slack);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ROUTER_RENDEZVOUS_H_
