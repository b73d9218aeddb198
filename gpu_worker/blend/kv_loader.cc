#include "gpu_worker/blend/kv_loader.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {
namespace {

// Layers are taken as they are computed, which on a slow processor takes longer than any fetch.
constexpr absl::Duration kSlowestBlend = absl::Minutes(10);

}  // namespace

KvLoader::KvLoader(const Decoder* decoder, CacheClient* client, ChunkPrefill* prefill,
                   ChunkPool* pool, int64_t tokens_per_piece, const CancelFlag* cancelled)
    : decoder_(*decoder),
      client_(*client),
      prefill_(*prefill),
      tokens_per_piece_(tokens_per_piece),
      cancelled_(*cancelled),
      pool_(*pool) {}

void KvLoader::Begin(const std::vector<WantedChunk>& wanted, const CallOptions& options) {
  std::vector<FetchTarget> targets;
  std::vector<std::shared_ptr<ChunkLoad>> begun;
  auto fetch = std::make_shared<ChunkFetch>();
  for (const WantedChunk& want : wanted) {
    Source source{.resident = pool_.Find(want.key), .load = nullptr};
    if (source.resident == nullptr) source.load = pool_.FindLoad(want.key);
    if (source.resident == nullptr && source.load == nullptr) {
      source.load = ChunkLoad::Begin(&decoder_, &pool_, want, tokens_per_piece_);
      source.load->AddTargets(&targets, fetch.get());
      begun.push_back(source.load);
    }
    if (source.load != nullptr) source.losses = source.load->losses();
    chunks_.push_back(std::move(source));
  }
  if (targets.empty()) return;
  fetch->stream =
      client_.Fetch(std::move(targets), {.timeout = options.timeout,
                                         .use_within = kSlowestBlend,
                                         .on_progress = [&pool = pool_] { pool.Progress(); },
                                         .request_id = options.request_id});
  for (const auto& load : begun) load->SetFetch(fetch);
}

LoadState KvLoader::Poll(int64_t layer) {
  LoadState state = LoadState::kReady;
  for (const Source& source : chunks_) {
    if (source.load == nullptr) continue;
    const LoadState one = source.load->Poll(layer);
    if (one == LoadState::kPrefill) return one;
    if (one == LoadState::kWait) state = one;
  }
  if (state == LoadState::kWait) return state;
  // Only then: copies are made one behind the other, and what a chunk has ahead is wanted later
  // than this layer of all others.
  for (const Source& source : chunks_) {
    if (source.load != nullptr) source.load->BringAhead();
  }
  return state;
}

std::optional<PieceClaim> KvLoader::ClaimPiece() {
  for (const Source& source : chunks_) {
    if (source.load == nullptr) continue;
    if (std::optional<PieceClaim> claim = source.load->Claim()) return claim;
  }
  return std::nullopt;
}

absl::Time KvLoader::ready_by() const {
  absl::Time first = absl::InfiniteFuture();
  for (const Source& source : chunks_) {
    if (source.load != nullptr) first = std::min(first, source.load->ready_by());
  }
  return first;
}

Steps<absl::Status> KvLoader::Computing(PieceClaim claim) {
  if (claim.kv().capacity() == 0) {
    CO_ASSIGN_OR_RETURN(
        claim.kv(), prefill_.Begin(claim.sink(), claim.piece(), cancelled_.value(), claim.chunk()));
  }
  CO_RETURN_IF_ERROR(co_await prefill_.RunningPiece(static_cast<int64_t>(claim.sink().size()),
                                                    claim.tokens(), claim.piece(), claim.kv(),
                                                    claim.chunk()));
  claim.Done();
  co_return absl::OkStatus();
}

Steps<absl::Status> KvLoader::Arriving(int64_t layer) {
  for (LoadState state = Poll(layer); state != LoadState::kReady; state = Poll(layer)) {
    // All that was cancelled looks like a miss here, and is not to be computed.
    if (cancelled_.IsSet()) co_return absl::CancelledError("the request was cancelled");
    if (state == LoadState::kWait) {
      co_await WaitStep(ready_by());
    } else {
      CO_RETURN_IF_ERROR(co_await Computing(*ClaimPiece()));
      co_await NextStep();
    }
  }
  co_return absl::OkStatus();
}

absl::Status KvLoader::WaitForLayer(int64_t layer) {
  const CancelFlag::Hook on_cancelled(cancelled_, [this] { pool_.Progress(); });
  return RunSteps(Arriving(layer), cancelled_.value(),
                  [this](absl::Time until) { pool_.AwaitProgress(until); });
}

const RawChunk& KvLoader::chunk(size_t i) const {
  const Source& source = chunks_[i];
  return source.load == nullptr ? *source.resident : source.load->chunk();
}

int64_t KvLoader::cached_tokens(size_t i) const {
  const Source& source = chunks_[i];
  return source.load == nullptr ? source.resident->tokens() : source.load->cached_tokens();
}

std::vector<TierTokens> KvLoader::found(size_t i) const {
  const Source& source = chunks_[i];
  if (source.load != nullptr) return source.load->found();
  return {{kWorkerTier, source.resident->tokens()}};
}

bool KvLoader::Confirm() {
  bool all_held = true;
  for (Source& source : chunks_) {
    if (source.load == nullptr) continue;
    source.load->Confirm();
    // Another request may have found out first.
    if (source.losses != source.load->losses()) all_held = false;
    source.losses = source.load->losses();
  }
  return all_held;
}

std::vector<FreshChunk> KvLoader::TakeFresh() {
  std::vector<FreshChunk> all;
  for (const Source& source : chunks_) {
    if (source.load == nullptr) continue;
    if (std::optional<FreshChunk> fresh = source.load->TakeFresh())
      all.push_back(*std::move(fresh));
  }
  return all;
}

}  // namespace tessera
