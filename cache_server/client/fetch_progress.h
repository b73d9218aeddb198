// What of a fetch has arrived: takes slice parts as they come, and lets readers wait for whole
// slices.
#ifndef TESSERA_CACHE_SERVER_CLIENT_FETCH_PROGRESS_H_
#define TESSERA_CACHE_SERVER_CLIENT_FETCH_PROGRESS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/transfer/slice_wire.h"

namespace tessera {

// The server's word on one target.
struct HeaderEntry {
  bool found = false;
  uint32_t layers = 0;
  uint64_t slice_bytes = 0;
  std::string tier;
};

// Waits may come from any thread. Each target is filled by one stream, one call at a time;
// different targets may be filled by different threads.
class FetchProgress {
 public:
  // on_progress: as FetchOptions'; called after every change that HasHeader or IsDecided can see.
  // read_memory: where targets without memory get theirs; may be null.
  explicit FetchProgress(std::vector<FetchTarget> targets,
                         std::function<void()> on_progress = nullptr,
                         ReadMemory* read_memory = nullptr);

  const std::vector<FetchTarget>& targets() const { return targets_; }

  // For the stream that fills targets `first`, `first + 1`, ...: the server's answer for them. A
  // target that is not found, or stored with other sizes, is a miss. A later answer may take back a
  // find, never a miss. Targets without memory get some here.
  void SetHeader(size_t first, const std::vector<HeaderEntry>& entries);

  // Copies a part of a slice of target `target` to its place; after the last part, verifies the
  // slice. Parts of a missed target are passed over. `copied` is told how many bytes were copied,
  // before anybody can see the slice.
  // INVALID_ARGUMENT: a part that does not follow what came before; DATA_LOSS: a wrong checksum.
  // Either makes the target fail.
  absl::Status AddPart(size_t target, const ReceivedMessage& message,
                       absl::FunctionRef<void(uint64_t)> copied);

  // No more comes for targets [first, end): what is not complete will not be.
  void Close(size_t first, size_t end);

  // Nothing more comes for what stands behind the first miss.
  void CloseAfterFirstMiss();

  // Whether all slices of all found targets in [first, end) have arrived; false without a header.
  bool IsComplete(size_t first, size_t end) const;

  // Waits until every target in [first, end) has its header or is closed. False: not before
  // `deadline`.
  bool WaitForHeader(size_t first, size_t end, absl::Time deadline) const;

  // Without waiting: whether WaitForHeader, or WaitForSlice, would return at once before its
  // deadline.
  bool HasHeader(size_t first, size_t end) const;
  bool IsDecided(size_t target, uint32_t layer) const;

  // The tier of each target, empty for a miss or when no header came.
  std::vector<std::string> Tiers() const;

  // See FetchStream::WaitForSlice. False after `deadline`, and then for all later layers.
  bool WaitForSlice(size_t target, uint32_t layer, absl::Time deadline);

  // See FetchStream.
  uint32_t ReadyLayers(size_t target) const;
  absl::Span<const std::byte> Slices(size_t target, uint32_t first_layer, uint32_t layers) const;

 private:
  // Written by the one stream that fills the target, so not guarded.
  struct Filling {
    uint32_t layer = 0;
    uint64_t offset = 0;
  };
  struct State {
    bool has_header = false;
    bool closed = false;  // nothing more comes: miss, failure, or end
    uint32_t ready_layers = 0;
    std::string tier;
    std::byte* memory = nullptr;  // the target's, or `own_memory`; set with the header
    std::shared_ptr<std::byte> own_memory;
  };

  // Memory for those of them that are found and have none.
  std::vector<std::shared_ptr<std::byte>> AllocateFor(
      size_t first, const std::vector<HeaderEntry>& entries) const;
  bool HasMemory(size_t target) const;
  absl::Status CheckPart(size_t target, const SlicePart& part) const;
  // All targets of one stream get their header together, so its last one speaks for all of them.
  bool HeaderIsHere(size_t first, size_t end) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return first == end || states_[end - 1].has_header || states_[end - 1].closed;
  }
  // Whether it is known if a slice comes; one of a layer that there is not never does.
  bool SliceIsDecided(size_t target, uint32_t layer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const State& state = states_[target];
    return state.ready_layers > layer || state.closed || layer >= targets_[target].layers;
  }
  void Tell() const {
    if (on_progress_) on_progress_();
  }

  const std::vector<FetchTarget> targets_;
  const std::function<void()> on_progress_;
  ReadMemory* const read_memory_;
  std::vector<Filling> filling_;
  mutable absl::Mutex mutex_;
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_FETCH_PROGRESS_H_
