#include "gpu_worker/blend/chunk_run.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"

namespace tessera {
namespace {

// Answers come at once, or the client's own patience ends first.
constexpr absl::Duration kAskTimeout = absl::Seconds(10);

}  // namespace

ChunkRun::ChunkRun(const Decoder* decoder, CacheClient* client, CacheQuestions* questions,
                   ChunkPrefill* prefill, ChunkPool* pool, const WantedChunk& wanted,
                   int64_t tokens_per_piece, CallOptions fetch_options, const CancelFlag* cancelled)
    : client_(*client),
      questions_(*questions),
      prefill_(*prefill),
      pool_(*pool),
      wanted_(wanted),
      fetch_options_(std::move(fetch_options)),
      cancelled_(*cancelled),
      chunk_(std::make_unique<RawChunk>(decoder->config(),
                                        static_cast<int64_t>(wanted.tokens.size()),
                                        tokens_per_piece, decoder->memory())) {
  for (int64_t piece = 0; piece < chunk_->pieces(); ++piece) {
    piece_keys_.push_back(PieceKeyOf(wanted.key, tokens_per_piece, piece));
  }
  missing_.assign(piece_keys_.size(), true);
}

Steps<absl::Status> ChunkRun::Asking() {
  const std::shared_ptr<MissingKeys> answer =
      questions_.Ask(piece_keys_, {kAskTimeout, fetch_options_.request_id});
  while (answer != nullptr && !answer->ready()) co_await WaitStep();
  if (answer != nullptr) missing_ = answer->Take();
  next_ = std::find(missing_.begin(), missing_.end(), true) - missing_.begin();
  end_ = missing_.rend() - std::find(missing_.rbegin(), missing_.rend(), true);
  co_return absl::OkStatus();
}

Steps<absl::Status> ChunkRun::Computing() {
  if (next_ > 0) CO_RETURN_IF_ERROR(co_await Fetching());
  if (cancelled_.IsSet()) co_return absl::CancelledError("the request was cancelled");
  CO_ASSIGN_OR_RETURN(KvMemory kv,
                      prefill_.Begin(wanted_.sink, next_, cancelled_.value(), *chunk_));
  for (; next_ < end_; ++next_) {
    CO_RETURN_IF_ERROR(co_await prefill_.RunningPiece(static_cast<int64_t>(wanted_.sink.size()),
                                                      wanted_.tokens, next_, kv, *chunk_));
    co_await NextStep();
  }
  co_return absl::OkStatus();
}

// A piece that does not come whole is computed, and all that follow it up to the last missing one.
// The stream ends here: what is late must not be written over what is computed. So do copies from
// it to a device, before the lease is asked for.
Steps<absl::Status> ChunkRun::Fetching() {
  const int64_t wanted = next_;
  std::vector<FetchTarget> targets;
  for (int64_t piece = 0; piece < wanted; ++piece) {
    targets.push_back(TargetOf(piece_keys_[piece], *chunk_, piece));
  }
  const std::shared_ptr<FetchStream> stream =
      client_.Fetch(std::move(targets), {.timeout = fetch_options_.timeout,
                                         .on_progress = [&pool = pool_] { pool.Progress(); },
                                         .request_id = fetch_options_.request_id});
  bool whole = true;
  for (next_ = 0; next_ < wanted; ++next_) {
    for (uint32_t layer = 0; whole && layer < chunk_->layers(); ++layer) {
      while (!stream->SliceReady(next_, layer)) co_await WaitStep(stream->ready_by());
      whole = stream->WaitForSlice(next_, layer);
    }
    if (!whole) break;
    TakeSlices(stream, next_, next_, 0, chunk_->layers(), *chunk_);
  }
  chunk_->AwaitBrought();
  if (!stream->LeaseHeld()) next_ = 0;
  for (int64_t piece = next_; piece < wanted; ++piece) missing_[piece] = true;
  co_return absl::OkStatus();
}

int64_t ChunkRun::cached_tokens() const {
  int64_t tokens = 0;
  for (int64_t piece = 0; piece < chunk_->pieces(); ++piece) {
    if (!missing_[piece]) tokens += chunk_->PieceTokens(piece);
  }
  return tokens;
}

std::vector<StoreSource> ChunkRun::Sources() const {
  std::vector<StoreSource> sources;
  for (int64_t piece = 0; piece < chunk_->pieces(); ++piece) {
    if (!missing_[piece]) continue;
    sources.push_back(SourceOf(piece_keys_[piece], *chunk_, piece, wanted_.tenant));
  }
  return sources;
}

}  // namespace tessera
