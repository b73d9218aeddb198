#include "gpu_worker/blend/prefix_run.h"

#include <utility>

#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {

PrefixRun::PrefixRun(const Decoder* decoder, CacheClient* client, ChunkPrefill* prefill,
                     absl::Span<const uint32_t> ids, int64_t tokens_per_block,
                     const CancelFlag* cancelled)
    : decoder_(*decoder),
      client_(*client),
      prefill_(*prefill),
      ids_(ids),
      tokens_per_block_(tokens_per_block),
      blocks_((static_cast<int64_t>(ids.size()) - 1) / tokens_per_block),
      cancelled_(*cancelled),
      chunk_(std::make_unique<RawChunk>(decoder->config(), blocks_ * tokens_per_block,
                                        tokens_per_block)) {
  CHECK(!ids.empty());
}

absl::StatusOr<Activations> PrefixRun::Run(const ChunkKey& root, absl::Duration fetch_timeout,
                                           const KvMemory& kv) {
  ChunkKey parent = root;
  for (int64_t block = 0; block < blocks_; ++block) {
    parent = MakeBlockKey(parent, ids_.subspan(block * tokens_per_block_, tokens_per_block_));
    keys_.push_back(parent);
  }
  if (blocks_ > 0) Fetch(fetch_timeout);
  // All that was cancelled looks like a miss here, and is not to be computed.
  if (cancelled_.IsSet()) return absl::CancelledError("the request was cancelled");
  const int64_t layers = chunk_->layers();
  for (int64_t block = 0; block < cached_blocks_; ++block) {
    for (int64_t layer = 0; layer < layers; ++layer) Place(block, layer, kv);
  }
  for (int64_t block = cached_blocks_; block < blocks_; ++block) {
    RETURN_IF_ERROR(
        prefill_.RunPiece(/*sink_tokens=*/0, ids_, block, cancelled_.value(), kv, *chunk_));
    // No row of a chunk attends to its last layer, so RunPiece leaves that out of the memory.
    Place(block, layers - 1, kv);
  }
  const int64_t rest = blocks_ * tokens_per_block_;
  return decoder_.Extend(kv, ids_.subspan(rest), rest, cancelled_.value());
}

void PrefixRun::Place(int64_t block, int64_t layer, const KvMemory& kv) {
  decoder_.ops().PlaceSlice(chunk_->Slice(block, layer), chunk_->FirstToken(block), decoder_.rope(),
                            kv.Layer(layer));
}

// The stream ends here: what is late must not be written over what is computed.
void PrefixRun::Fetch(absl::Duration timeout) {
  std::vector<FetchTarget> targets;
  for (int64_t block = 0; block < blocks_; ++block) {
    targets.push_back(TargetOf(keys_[block], *chunk_, block));
  }
  const auto stream =
      client_.Fetch(std::move(targets), {.timeout = timeout, .stop_at_first_miss = true});
  const CancelFlag::Hook on_cancelled(cancelled_, [&] { stream->Cancel(); });
  const std::vector<std::string> tiers = stream->WaitForHeader();
  while (cached_blocks_ < blocks_ && !tiers[cached_blocks_].empty()) {
    for (uint32_t layer = 0; layer < chunk_->layers(); ++layer) {
      if (!stream->WaitForSlice(cached_blocks_, layer)) return;
    }
    if (cached_blocks_ == 0) tier_ = tiers[0];
    ++cached_blocks_;
  }
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
