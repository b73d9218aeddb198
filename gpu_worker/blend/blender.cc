#include "gpu_worker/blend/blender.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "glog/logging.h"
#include "gpu_worker/blend/blend_run.h"

namespace tessera {
namespace {

constexpr absl::Duration kShortestFetch = absl::Seconds(1);
constexpr absl::Duration kLongestFetch = absl::Seconds(60);

}  // namespace

Layout LayoutOf(const ModelConfig& model, const std::string& weights_digest) {
  Layout layout;
  layout.model_digest = weights_digest;
  layout.architecture = model.family;
  layout.layers = static_cast<uint32_t>(model.layers);
  layout.kv_heads = static_cast<uint32_t>(model.kv_heads);
  layout.head_dim = static_cast<uint32_t>(model.head_dim);
  layout.rope = absl::StrCat(model.rope.ToString(), " rms_eps=", model.rms_eps);
  return layout;
}

Blender::Blender(const Decoder* decoder, CacheClient* client, const ChunkKey& fingerprint,
                 const BlendConfig& config)
    : decoder_(*decoder),
      client_(*client),
      fingerprint_(fingerprint),
      config_(config),
      chunk_prefill_(decoder) {
  CHECK_GE(config.check_layer, 0);
  CHECK_LT(config.check_layer, decoder->config().layers);
  CHECK_GT(config.tokens_per_piece, 0);
}

absl::StatusOr<Prefilled> Blender::Prefill(const BlendRequest& request,
                                           const CancelFlag& cancelled) {
  CHECK(!request.segments.empty());
  if (request.exact || request.segments.size() == 1) return PrefillExact(request, cancelled);
  std::vector<uint32_t> bos;
  if (config_.sink == SinkKind::kBos && decoder_.config().bos_token_id >= 0) {
    bos.push_back(static_cast<uint32_t>(decoder_.config().bos_token_id));
  }
  int64_t tokens = 0;
  std::vector<WantedChunk> wanted;
  for (size_t i = 0; i + 1 < request.segments.size(); ++i) {
    WantedChunk want;
    want.tokens = request.segments[i];
    if (i > 0) {
      want.sink = config_.sink == SinkKind::kLead ? absl::MakeConstSpan(request.segments[0])
                                                  : absl::MakeConstSpan(bos);
    }
    want.key = MakeChunkKey(fingerprint_, request.salt, want.sink, want.tokens);
    want.tenant = MakeTenant(request.salt);
    tokens += static_cast<int64_t>(want.tokens.size());
    wanted.push_back(want);
  }
  KvLoader loader(&decoder_, &client_, &chunk_prefill_, config_.tokens_per_piece, config_.layerwise,
                  &cancelled);
  const absl::Duration timeout =
      std::clamp(absl::Seconds(static_cast<double>(tokens) * seconds_per_token_), kShortestFetch,
                 kLongestFetch);
  RETURN_IF_ERROR(loader.Start(wanted, timeout));
  BlendRun run(decoder_, loader, config_, request, cancelled.value());
  ASSIGN_OR_RETURN(Prefilled done, run.Run());
  done.fresh = loader.TakeFresh();
  return done;
}

absl::StatusOr<Prefilled> Blender::PrefillExact(const BlendRequest& request,
                                                const CancelFlag& cancelled) {
  Prefilled done;
  std::vector<uint32_t> ids;
  for (const std::vector<uint32_t>& segment : request.segments) {
    ids.insert(ids.end(), segment.begin(), segment.end());
    done.segments.push_back({.tokens = static_cast<int64_t>(segment.size())});
  }
  done.tokens = static_cast<int64_t>(ids.size());
  done.kv = KvMemory(decoder_.config(), done.tokens + request.max_new_tokens);
  ASSIGN_OR_RETURN(const Activations last, decoder_.Extend(done.kv, ids, 0, cancelled.value()));
  const Activations logits = decoder_.Logits(last);
  done.logits.assign(logits->data, logits->data + logits->cols);
  return done;
}

}  // namespace tessera
