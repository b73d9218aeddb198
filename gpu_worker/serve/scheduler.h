// What the worker does next: a pure function of who waits, who runs, and what is free.
#ifndef TESSERA_GPU_WORKER_SERVE_SCHEDULER_H_
#define TESSERA_GPU_WORKER_SERVE_SCHEDULER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"

namespace tessera {

enum class Stage {
  kWaiting,     // has no blocks: new, or preempted
  kPrefilling,  // on the way to its first token, a full prefill or a blend
  kDecoding,
};

// A request, as far as scheduling goes.
struct SchedulerEntry {
  uint64_t id = 0;
  int32_t priority = 0;  // lower runs first
  double rank = 0;       // RankOf
  Stage stage = Stage::kWaiting;
  // Blocks that its next step takes: all of the prompt's for one that waits, what its new rows need
  // for one that decodes.
  int64_t blocks = 0;
  int64_t blocks_held = 0;  // that preempting it gives back
  // Of one that prefills: no step was taken yet (the first one asks for its chunks); it waits for
  // bytes that have not arrived.
  bool is_new = false;
  bool is_loading = false;
};

struct SchedulerState {
  std::vector<SchedulerEntry> entries;  // each id once, in any order
  int64_t free_blocks = 0;
  bool has_chunk = false;  // a chunk to compute ahead is under way
  // How long prefills and chunks have run since the last decode step, and how long that step took.
  absl::Duration since_decode;
  absl::Duration decode_step;
};

struct SchedulerOptions {
  // Requests that run at a time.
  size_t max_running = 32;
  // Of these, how many prefill: the loads of some go on while another computes.
  size_t max_prefilling = 4;
  // Of the time, while there is other work: what decode steps get. (0, 1]
  double decode_share = 0.25;
};

// In the order in which it is to be carried out.
struct Batch {
  std::vector<uint64_t> preempted;    // give their blocks up and wait again
  std::vector<uint64_t> started;      // get their blocks and prefill
  std::vector<uint64_t> decoded;      // get one decode step together
  std::optional<uint64_t> prefilled;  // gets one step, a layer
  bool chunk = false;                 // the chunk gets one step
};

// A request's place in the order: the one that came first, but each step of priority counts as
// `priority_step` of waiting. So a stream of urgent requests delays another one by no more than
// that for each step between them.
double RankOf(int32_t priority, absl::Time submitted, absl::Duration priority_step);

// Continuous batching (Orca: Yu et al. 2022) with prefills mixed in, step by step (Sarathi-Serve:
// Agrawal et al. 2024) and preemption by recompute (vLLM: Kwon et al. 2023). By rank, then id:
// - Who decodes gets the blocks that it needs; when too few are free, the last in order gives all
// of
//   its own up and waits. The first in order is never preempted, so it ends, and so do all.
// - Who waits starts in order while there are places and blocks, with a block to spare for each
// that
//   decodes; nobody overtakes. One of a better priority takes the place of a later one of a worse.
// - One prefill gets a step: one that is new, so that its chunks are on their way, otherwise the
//   first in order that does not wait for bytes.
// - Decoding alternates with prefills and chunks, and gets its share of the time: the smaller it
// is, the
//   more requests decode together, which costs little more than one does.
Batch Schedule(const SchedulerState& state, const SchedulerOptions& options);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_SCHEDULER_H_
