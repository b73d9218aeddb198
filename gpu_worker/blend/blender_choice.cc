// The blender's part that asks the cost model.
#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/prompt_cost.h"

namespace tessera {
namespace {

// The answer only says what is faster, so it is not worth a long wait.
constexpr absl::Duration kLookupTimeout = absl::Milliseconds(100);

bool TakesAll(const CostDecision& decision, const PromptShape& shape) {
  for (size_t i = 0; i < shape.chunks.size(); ++i) {
    if (decision.taken[i] < shape.chunks[i].cached) return false;
  }
  return true;
}

// Whole pieces of `tokens` of which none is missing, as tokens; moves *at behind their answers.
int64_t Found(const std::vector<bool>& missing, int64_t pieces, int64_t tokens_per_piece,
              int64_t tokens, size_t* at) {
  int64_t found = 0;
  while (found < pieces && !missing[*at + found]) ++found;
  *at += pieces;
  return std::min(tokens, found * tokens_per_piece);
}

}  // namespace

void Blender::AskCache(const BlendRequest& request, const BlendRequest& full, PromptShape* shape) {
  std::vector<ChunkKey> keys;
  std::vector<int64_t> pieces;
  const int64_t step = config_.tokens_per_piece;
  for (const WantedChunk& want : WantedOf(request)) {
    pieces.push_back((static_cast<int64_t>(want.tokens.size()) + step - 1) / step);
    for (int64_t piece = 0; piece < pieces.back(); ++piece) {
      keys.push_back(PieceKeyOf(want.key, step, piece));
    }
  }
  const std::vector<ChunkKey> prefix = PrefixKeys(full);
  keys.insert(keys.end(), prefix.begin(), prefix.end());
  const std::vector<bool> missing = client_.FindMissing(keys, kLookupTimeout);
  size_t at = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    ChunkShape& chunk = shape->chunks[i];
    chunk.cached = std::max(chunk.resident, Found(missing, pieces[i], step, chunk.tokens, &at));
  }
  shape->prefix =
      std::max(shape->resident_prefix,
               Found(missing, static_cast<int64_t>(prefix.size()), step, shape->tokens(), &at));
}

// Where the choice is the same whatever the cache has, it is not asked.
CostDecision Blender::Decide(const BlendRequest& request, const BlendRequest& full,
                             int64_t resident_tokens) {
  PromptShape shape = ShapeOf(request, config_, decoder_.config());
  ChunkShape& lead = shape.chunks.front();
  lead.cached = lead.resident = shape.resident_prefix = shape.prefix = resident_tokens;
  const PromptShape all = AllCached(shape);
  const CostDecision cold = costs_->Choose(shape), warm = costs_->Choose(all);
  if (cold.blend == warm.blend && TakesAll(warm, all)) return warm.blend ? warm : cold;
  AskCache(request, full, &shape);
  return costs_->Choose(shape);
}

Steps<absl::StatusOr<Prefilled>> Blender::PrefillingCheaper(const BlendRequest& request,
                                                            PromptMemory memory,
                                                            const CancelFlag& cancelled) {
  BlendRequest full = request;
  full.exact = full.prefixes = true;
  const CostDecision decision = Decide(request, full, memory.resident_tokens);
  if (decision.blend) {
    CO_ASSIGN_OR_RETURN(Prefilled blended,
                        co_await Blending(request, std::move(memory), cancelled));
    blended.chosen = true;
    co_return blended;
  }
  CO_ASSIGN_OR_RETURN(Prefilled done,
                      co_await PrefillingBehindPrefix(full, std::move(memory), cancelled));
  done.chosen = true;
  co_return done;
}

absl::Duration Blender::waited() const {
  return costs_ == nullptr ? absl::ZeroDuration() : costs_->waited();
}

void Blender::Learn(const BlendRequest& request, absl::Duration computed, Prefilled* prefilled) {
  if (costs_ == nullptr) return;
  const PromptShape shape = ShapeOf(request, config_, decoder_.config(), *prefilled);
  prefilled->cost = {costs_->Predict(shape, prefilled->blended), absl::ToDoubleSeconds(computed)};
  costs_->Observe(prefilled->cost->predicted, prefilled->cost->compute_seconds);
}

}  // namespace tessera
