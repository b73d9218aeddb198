#include "gpu_worker/blend/prompt_cost.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "gpu_worker/device/tensor.h"

namespace tessera {
namespace {

using Kind = SelectionPolicy::Kind;

void SetPolicy(const BlendRequest& request, const BlendConfig& config, PromptShape* shape) {
  const SelectionPolicy& policy = request.policy;
  shape->kind = policy.needs_query_pass()  ? PrefillKind::kQuery
                : policy.needs_deviation() ? PrefillKind::kDeviation
                                           : PrefillKind::kStatic;
  const bool first_alone = policy.kind() == Kind::kFirst;
  shape->ratio = policy.kind() == Kind::kFull                  ? 1
                 : first_alone || policy.kind() == Kind::kNone ? 0
                                                               : request.recompute_ratio;
  if (first_alone || absl::EndsWith(policy.name(), "+first")) shape->first_rows = config.first_k;
}

}  // namespace

PromptShape ShapeOf(const BlendRequest& request, const BlendConfig& config,
                    const ModelConfig& model) {
  PromptShape shape;
  const size_t chunks = request.segments.size() - 1;
  for (size_t i = 0; i < chunks; ++i) {
    const bool exact = i == 0 || (i == 1 && config.sink == SinkKind::kLead);
    shape.chunks.push_back(
        {.tokens = static_cast<int64_t>(request.segments[i].size()), .exact = exact});
  }
  shape.suffix = static_cast<int64_t>(request.segments.back().size());
  SetPolicy(request, config, &shape);
  shape.correction = request.correction;
  shape.check_layer = config.check_layer;
  shape.layerwise = config.layerwise;
  shape.store = request.store;
  shape.bytes_per_token =
      model.layers * 2 * model.kv_heads * model.head_dim * static_cast<int64_t>(sizeof(Bf16));
  shape.tokens_per_piece = config.tokens_per_piece;
  return shape;
}

PromptShape AllCached(PromptShape shape) {
  for (ChunkShape& chunk : shape.chunks) chunk.cached = chunk.tokens;
  return shape;
}

PromptShape ShapeOf(const BlendRequest& request, const BlendConfig& config,
                    const ModelConfig& model, const Prefilled& prefilled) {
  PromptShape shape = ShapeOf(request, config, model);
  for (size_t i = 0; i < prefilled.segments.size(); ++i) {
    const int64_t cached = prefilled.segments[i].cached_tokens;
    if (!prefilled.blended) {
      shape.prefix += cached;
      shape.resident_prefix += cached;
    } else if (i < shape.chunks.size()) {
      shape.chunks[i].cached = shape.chunks[i].resident = cached;
    }
  }
  return shape;
}

PullChoice PullsOf(const CostDecision& decision, const PromptShape& shape) {
  int64_t in_chunks = 0, taken = 0;
  for (size_t i = 0; i < shape.chunks.size(); ++i) {
    const ChunkShape& chunk = shape.chunks[i];
    in_chunks += chunk.cached - chunk.resident;
    if (!decision.blend) continue;
    taken += std::max<int64_t>(0, std::min(decision.taken[i], chunk.cached) - chunk.resident);
  }
  if (decision.blend) return {.pulled = taken, .recomputed = in_chunks - taken};
  // The same tokens may be there as chunks and as a prefix.
  const int64_t in_prefix = shape.prefix - shape.resident_prefix;
  const int64_t pulled = decision.fetch_prefix ? in_prefix : 0;
  return {.pulled = pulled, .recomputed = std::max(in_chunks, in_prefix) - pulled};
}

}  // namespace tessera
