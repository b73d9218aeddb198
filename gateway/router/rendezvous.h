// Which workers to try for a request, best first.
#ifndef TESSERA_GATEWAY_ROUTER_RENDEZVOUS_H_
#define TESSERA_GATEWAY_ROUTER_RENDEZVOUS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "proto/worker.pb.h"

namespace tessera {

struct WorkerLoad {
  std::string address;
  // Requests that this gateway has running there.
  size_t in_flight = 0;
};

// Indices into `workers`, best first. Every chunk (every segment but the last; a lone segment
// counts too) gives its tokens as votes to the worker that wins its rendezvous hash, so that the
// same chunks meet the same worker whatever else is in the prompt, on every gateway, and few move
// when workers come or go. Most votes win; then fewer requests in flight. Workers with `slack`
// requests more than the idlest come after all others: a chunk's home is worth a fetch, not a
// queue.
std::vector<size_t> RankWorkers(const worker::v1::GenerateRequest& request,
                                std::span<const WorkerLoad> workers, size_t slack);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ROUTER_RENDEZVOUS_H_
