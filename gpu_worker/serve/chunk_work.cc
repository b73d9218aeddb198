#include "gpu_worker/serve/chunk_work.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"

namespace tessera {
namespace {

void LogStored(const ChunkWork& work, const ChunkReport& report) {
  LOG_EVENT(kInfo, "chunk_prefilled")
      .With("request", work.request_id)
      .With("chunk", report.key.ToHex().substr(0, 16))
      .With("tokens", report.tokens)
      .With("cached_tokens", report.cached_tokens)
      .With("bytes", report.bytes)
      .With("rejected_pieces", report.rejected_pieces)
      .WithMs("total_ms", absl::Now() - work.submitted);
}

}  // namespace

ChunkTask::ChunkTask(std::unique_ptr<ChunkWork> work, Blender* blender, ChunkWriter* writer)
    : work_(std::move(work)),
      writer_(*writer),
      run_(blender->MakeChunkRun(work_->tokens, work_->salt, work_->request_id,
                                 work_->cancelled.get())),
      steps_(Running()) {}

StepState ChunkTask::Step() {
  const StepState state = steps_.Step();
  if (state != StepState::kDone) return state;
  const absl::Status computed = steps_.TakeResult();
  if (computed.ok()) {
    Store();
  } else {
    work_->done(computed);
  }
  return state;
}

Steps<absl::Status> ChunkTask::Running() {
  CO_RETURN_IF_ERROR(co_await run_->Asking());
  if (run_->has_all()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(Reserve());
  co_return co_await run_->Computing();
}

// Before it is computed: a chunk that cannot be stored is of no use here.
absl::Status ChunkTask::Reserve() {
  room_ = writer_.TryReserve(run_->bytes());
  if (room_.bytes() > 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      "the cache takes chunks more slowly than they are computed: try again later");
}

ChunkReport ChunkTask::Report() const {
  return {.key = run_->key(),
          .piece_keys = run_->piece_keys(),
          .bytes = run_->bytes(),
          .tokens = run_->tokens(),
          .cached_tokens = run_->cached_tokens(),
          .rejected_pieces = 0};
}

void ChunkTask::Store() {
  ChunkReport report = Report();
  AwaitedStore store;
  store.sources = run_->Sources();
  if (store.sources.empty()) {
    LogStored(*work_, report);
    work_->done(report);
    return;
  }
  store.chunk = run_->TakeChunk();
  store.keys = run_->piece_keys();
  store.request_id = work_->request_id;
  std::shared_ptr<ChunkWork> work = std::move(work_);
  store.done = [work, report](absl::StatusOr<size_t> missing) mutable {
    if (!missing.ok()) return work->done(missing.status());
    report.rejected_pieces = static_cast<int64_t>(*missing);
    LogStored(*work, report);
    work->done(std::move(report));
  };
  writer_.Store(std::move(store), std::move(room_));
}

}  // namespace tessera
