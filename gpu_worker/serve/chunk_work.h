// A segment to be computed alone and stored, as the engine runs it.
#ifndef TESSERA_GPU_WORKER_SERVE_CHUNK_WORK_H_
#define TESSERA_GPU_WORKER_SERVE_CHUNK_WORK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/cancel_flag.h"
#include "base/steps.h"
#include "cache_server/chunk/key.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/serve/chunk_writer.h"

namespace tessera {

// What became of it.
struct ChunkReport {
  ChunkKey key;
  std::vector<ChunkKey> piece_keys;
  int64_t bytes = 0;  // of all pieces
  int64_t tokens = 0;
  int64_t cached_tokens = 0;  // of the pieces that the cache had before
  // Pieces that the cache does not hold in the end: it had no room, or could not be reached.
  int64_t rejected_pieces = 0;
};

struct ChunkWork {
  std::string request_id;
  std::vector<uint32_t> tokens;  // not empty
  std::string salt;
  std::shared_ptr<CancelFlag> cancelled;  // set by anyone, at any time
  // Told once, on the engine's or the writer's thread; must not block.
  std::function<void(const absl::StatusOr<ChunkReport>&)> done;
  absl::Time submitted;
};

// A ChunkWork under way: in steps on the thread that issues device work, the store behind it on the
// writer's.
class ChunkTask {
 public:
  // All must outlive it.
  ChunkTask(std::unique_ptr<ChunkWork> work, Blender* blender, ChunkWriter* writer);

  // One step. kDone: there is nothing more to do here, and done was told or will be after the
  // store.
  StepState Step();
  // After kWaiting: when to take the next step at the latest.
  absl::Time waits_until() const { return steps_.waits_until(); }
  // Ends it early.
  void Fail(const absl::Status& status) { work_->done(status); }

  const ChunkWork& work() const { return *work_; }

 private:
  Steps<absl::Status> Running();
  absl::Status Reserve();
  ChunkReport Report() const;
  void Store();

  std::unique_ptr<ChunkWork> work_;
  ChunkWriter& writer_;
  const std::unique_ptr<ChunkRun> run_;
  Steps<absl::Status> steps_;  // of run_
  ChunkWriter::Room room_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_CHUNK_WORK_H_
