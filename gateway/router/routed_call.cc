#include "gateway/router/routed_call.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/chunk_hash.h"

namespace tessera {
namespace {

namespace v1 = worker::v1;

ChunkVote VoteOf(const v1::Segment& segment, const std::string& salt) {
  const auto& ids = segment.token_ids();
  const std::span<const uint32_t> span(ids.data(), static_cast<size_t>(ids.size()));
  return {.hash = ChunkHash(salt, span), .tokens = span.size(), .holders = {}};
}

// Every segment but the last, the suffix: only a prompt without chunks goes by its suffix.
std::vector<ChunkVote> VotesOf(const v1::GenerateRequest& request) {
  std::vector<ChunkVote> votes;
  const int segments = request.segments_size();
  for (int i = 0; i < std::max(1, segments - 1) && i < segments; ++i) {
    votes.push_back(VoteOf(request.segments(i), request.cache_salt()));
  }
  return votes;
}

}  // namespace

WorkerPool::RoutedCall::RoutedCall(WorkerPool* pool, std::vector<ChunkVote> chunks, bool learns)
    : pool_(pool),
      chunks_(std::move(chunks)),
      learns_(learns),
      untried_(pool->Candidates(chunks_)),
      attempts_left_(pool->options_.max_attempts) {}

bool WorkerPool::RoutedCall::StartNext() {
  absl::MutexLock lock(&mutex_);
  while (!cancelled_ && attempts_left_ > 0 && !untried_.empty()) {
    const RankedWorker next = untried_.front();
    untried_.erase(untried_.begin());
    WorkerClient* const client = pool_->Reserve(next, is_retry_);
    if (client == nullptr) continue;
    --attempts_left_;
    is_retry_ = true;
    worker_ = next.index;
    address_ = client->address();
    // This may destroy the attempt that failed, from within its own last callback.
    attempt_ = Send(client);
    pool_->SetRunning(worker_, this, attempt_.get());
    return true;
  }
  return false;
}

void WorkerPool::RoutedCall::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  if (attempt_ != nullptr) attempt_->Cancel();
}

bool WorkerPool::RoutedCall::Answered() {
  if (!answered_) answered_ = pool_->SetAnswered(worker_index(), this);
  return answered_;
}

void WorkerPool::RoutedCall::Served() {
  if (learns_) pool_->Learn(worker_index(), chunks_);
}

void WorkerPool::RoutedCall::Ended(absl::Status status) {
  const bool abandoned = pool_->Release(worker_index(), this, status);
  bool cancelled = false;
  {
    absl::MutexLock lock(&mutex_);
    cancelled = cancelled_;
  }
  // Whatever else it ended with, what came of its answer was dropped.
  if (abandoned && (!answered_ || absl::IsCancelled(status))) {
    status = cancelled ? absl::CancelledError("cancelled")
                       : absl::UnavailableError("the worker stopped answering: try again");
  }
  const bool elsewhere = absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
  if (elsewhere && !answered_ && StartNext()) return;
  Finish(status);
}

WorkerPool::RoutedGenerate::RoutedGenerate(WorkerPool* pool, v1::GenerateRequest request,
                                           absl::Time deadline, GenerateListener* listener)
    // A prompt without chunks leaves none in the worker's memory.
    : RoutedCall(pool, VotesOf(request), /*learns=*/request.segments_size() > 1),
      request_(std::move(request)),
      deadline_(deadline),
      listener_(listener) {}

std::unique_ptr<WorkerCall> WorkerPool::RoutedGenerate::Send(WorkerClient* worker) {
  return worker->Generate(request_, deadline_, this);
}

void WorkerPool::RoutedGenerate::OnEvent(const v1::GenerateResponse& event) {
  if (!Answered()) return;
  if (event.has_started()) Served();
  listener_->OnEvent(event);
}

WorkerPool::RoutedPrefill::RoutedPrefill(WorkerPool* pool, v1::PrefillChunkRequest request,
                                         absl::Time deadline, WorkerClient::ChunkCallback done)
    : RoutedCall(pool, {VoteOf(request.segment(), request.cache_salt())}, /*learns=*/true),
      request_(std::move(request)),
      deadline_(deadline),
      done_(std::move(done)) {}

std::unique_ptr<WorkerCall> WorkerPool::RoutedPrefill::Send(WorkerClient* worker) {
  return worker->PrefillChunk(request_, deadline_,
                              [this](absl::StatusOr<v1::PrefillChunkResponse> response) {
                                if (response.ok() && Answered()) {
                                  response_ = *std::move(response);
                                  Served();
                                }
                                Ended(response.status());
                              });
}

void WorkerPool::RoutedPrefill::Finish(const absl::Status& status) {
  // Local: the callback may destroy this object.
  const WorkerClient::ChunkCallback done = std::move(done_);
  if (status.ok()) {
    done(std::move(response_));
  } else {
    done(status);
  }
}

}  // namespace tessera
