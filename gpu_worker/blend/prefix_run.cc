#include "gpu_worker/blend/prefix_run.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {

PrefixRun::PrefixRun(const Decoder* decoder, CacheClient* client, ChunkPrefill* prefill,
                     ChunkPool* pool, absl::Span<const uint32_t> ids, std::vector<ChunkKey> keys,
                     int64_t tokens_per_block, int64_t resident, const CancelFlag* cancelled)
    : decoder_(*decoder),
      client_(*client),
      prefill_(*prefill),
      pool_(*pool),
      ids_(ids),
      tokens_per_block_(tokens_per_block),
      blocks_(static_cast<int64_t>(keys.size())),
      cancelled_(*cancelled),
      keys_(std::move(keys)),
      resident_(resident),
      chunk_(std::make_unique<RawChunk>(decoder->config(), blocks_ * tokens_per_block,
                                        tokens_per_block, decoder->memory())),
      cached_blocks_(resident),
      tiers_(resident, kWorkerTier) {
  CHECK_GT(static_cast<int64_t>(ids.size()), blocks_ * tokens_per_block);
  CHECK_LE(resident, blocks_);
}

Steps<absl::StatusOr<Activations>> PrefixRun::Run(CallOptions fetch, const KvMemory& kv) {
  if (blocks_ > resident_ && fetch.timeout > absl::ZeroDuration()) {
    CO_RETURN_IF_ERROR(co_await Fetching(std::move(fetch)));
  }
  // All that was cancelled looks like a miss here, and is not to be computed.
  if (cancelled_.IsSet()) co_return absl::CancelledError("the request was cancelled");
  const int64_t layers = chunk_->layers();
  for (int64_t block = resident_; block < cached_blocks_; ++block) {
    for (int64_t layer = 0; layer < layers; ++layer) Place(block, layer, kv);
  }
  for (int64_t block = cached_blocks_; block < blocks_; ++block) {
    CO_RETURN_IF_ERROR(co_await prefill_.RunningPiece(/*sink_tokens=*/0, ids_, block, kv, *chunk_));
    // No row of a chunk attends to its last layer, so that is not in the memory yet.
    Place(block, layers - 1, kv);
    co_await NextStep();
  }
  const int64_t rest = blocks_ * tokens_per_block_;
  co_return co_await decoder_.Extending(kv, ids_.subspan(rest), rest);
}

void PrefixRun::Place(int64_t block, int64_t layer, const KvMemory& kv) {
  decoder_.ops().PlaceSlice(chunk_->Slice(block, layer), chunk_->FirstToken(block), decoder_.rope(),
                            kv.Layer(layer));
}

// The stream ends here: what is late must not be written over what is computed. So do copies from
// it to a device, before the lease is asked for: what was read without it is a miss.
Steps<absl::Status> PrefixRun::Fetching(CallOptions options) {
  std::vector<FetchTarget> targets;
  for (int64_t block = resident_; block < blocks_; ++block) {
    targets.push_back(TargetOf(keys_[block], *chunk_, block));
  }
  const std::shared_ptr<FetchStream> stream =
      client_.Fetch(std::move(targets), {.timeout = options.timeout,
                                         .stop_at_first_miss = true,
                                         .on_progress = [&pool = pool_] { pool.Progress(); },
                                         .request_id = options.request_id});
  while (!stream->HeaderReady()) co_await WaitStep(stream->ready_by());
  const std::vector<std::string> tiers = stream->WaitForHeader();
  int64_t arrived = resident_;
  for (bool whole = true; arrived < blocks_; ++arrived) {
    const int64_t target = arrived - resident_;
    if (tiers[target].empty()) break;
    for (uint32_t layer = 0; whole && layer < chunk_->layers(); ++layer) {
      while (!stream->SliceReady(target, layer)) co_await WaitStep(stream->ready_by());
      whole = stream->WaitForSlice(target, layer);
    }
    if (!whole) break;
    TakeSlices(stream, target, arrived, 0, chunk_->layers(), *chunk_);
  }
  chunk_->AwaitBrought();
  if (arrived == resident_ || !stream->LeaseHeld()) co_return absl::OkStatus();
  cached_blocks_ = arrived;
  tiers_.insert(tiers_.end(), tiers.begin(), tiers.begin() + (arrived - resident_));
  co_return absl::OkStatus();
}

std::vector<TierTokens> PrefixRun::Found(int64_t first, int64_t count) const {
  std::vector<TierTokens> found;
  const int64_t end = std::min(first + count, cached_tokens());
  while (first < end) {
    const int64_t block = first / tokens_per_block_;
    const int64_t block_end = std::min(end, (block + 1) * tokens_per_block_);
    AddTokens(tiers_[block], block_end - first, &found);
    first = block_end;
  }
  return found;
}

std::vector<FreshChunk> PrefixRun::TakeFresh(const Tenant& tenant) {
  std::vector<FreshChunk> fresh;
  if (cached_blocks_ == blocks_) return fresh;
  fresh.push_back({.key = keys_.back(),
                   .first_piece = cached_blocks_,
                   .chunk = std::move(chunk_),
                   .tenant = tenant,
                   .block_keys = std::move(keys_)});
  return fresh;
}

}  // namespace tessera
