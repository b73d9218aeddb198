// The blender's part that asks the cost model.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/steps.h"
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

Steps<bool> Blender::AskingCache(const std::vector<WantedChunk>& wanted, const BlendRequest& full,
                                 PromptShape* shape) {
  std::vector<ChunkKey> keys;
  std::vector<int64_t> pieces;
  const int64_t step = config_.tokens_per_piece;
  for (const WantedChunk& want : wanted) {
    pieces.push_back((static_cast<int64_t>(want.tokens.size()) + step - 1) / step);
    for (int64_t piece = 0; piece < pieces.back(); ++piece) {
      keys.push_back(PieceKeyOf(want.key, step, piece));
    }
  }
  const std::vector<ChunkKey> prefix = PrefixKeys(full);
  keys.insert(keys.end(), prefix.begin(), prefix.end());
  std::vector<bool> missing(keys.size(), true);
  const absl::Time until = absl::Now() + kLookupTimeout;
  const std::shared_ptr<MissingKeys> answer =
      questions_.Ask(std::move(keys), {kLookupTimeout, full.request_id});
  while (answer != nullptr && !answer->ready() && absl::Now() < until) co_await WaitStep(until);
  if (answer != nullptr && answer->ready()) missing = answer->Take();
  size_t at = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    ChunkShape& chunk = shape->chunks[i];
    chunk.cached = std::max(chunk.resident, Found(missing, pieces[i], step, chunk.tokens, &at));
  }
  const auto blocks = static_cast<int64_t>(prefix.size());
  shape->prefix = std::max(shape->prefix, Found(missing, blocks, step, shape->tokens(), &at));
  co_return true;
}

// Where the choice is the same whatever the cache has, it is not asked.
Steps<CostDecision> Blender::Deciding(const std::vector<WantedChunk>& wanted,
                                      const BlendRequest& full, PromptShape* shape, bool* asked) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    ChunkShape& chunk = shape->chunks[i];
    if (pool_.Holds(wanted[i].key)) chunk.cached = chunk.resident = chunk.tokens;
  }
  const PromptShape all = AllCached(*shape);
  const CostDecision cold = costs_->Choose(*shape), warm = costs_->Choose(all);
  if (cold.blend != warm.blend || !TakesAll(warm, all)) {
    *asked = co_await AskingCache(wanted, full, shape);
  } else if (cold.blend) {
    co_return cold;
  } else {
    // A fetch will tell what there is of the prefix; all of it is what may be worth one.
    shape->prefix = static_cast<int64_t>(PrefixKeys(full).size()) * config_.tokens_per_piece;
  }
  co_return costs_->Choose(*shape);
}

Steps<absl::StatusOr<Prefilled>> Blender::PrefillingCheaper(const BlendRequest& request,
                                                            PromptMemory memory,
                                                            const CancelFlag& cancelled) {
  std::vector<WantedChunk> wanted = WantedOf(request);
  BlendRequest full = request;
  full.exact = full.prefixes = true;
  PromptShape shape = ShapeOf(request, config_, decoder_.config());
  ChunkShape& lead = shape.chunks.front();
  lead.cached = lead.resident = shape.prefix = shape.resident_prefix = memory.resident_tokens;
  bool asked = false;
  const CostDecision decision = co_await Deciding(wanted, full, &shape, &asked);
  const PullChoice pulls = asked ? PullsOf(decision, shape) : PullChoice();
  if (decision.blend) {
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (decision.taken[i] < shape.chunks[i].cached) wanted[i].most_fetched = decision.taken[i];
    }
    CO_ASSIGN_OR_RETURN(Prefilled blended, co_await Blending(request, std::move(wanted),
                                                             std::move(memory), cancelled));
    blended.chosen = true;
    blended.pulls = pulls;
    co_return blended;
  }
  // What is too slow to fetch is too slow to store.
  const bool slow = shape.prefix > shape.resident_prefix && !decision.fetch_prefix;
  if (slow) full.store = false;
  CO_ASSIGN_OR_RETURN(Prefilled done, co_await PrefillingBehindPrefix(
                                          full, /*fetch=*/!slow, std::move(memory), cancelled));
  done.chosen = true;
  done.pulls = pulls;
  done.wants_chunks =
      request.store && config_.sink != SinkKind::kLead && costs_->Choose(AllCached(shape)).blend;
  co_return done;
}

absl::Duration Blender::waited() const {
  return costs_ == nullptr ? absl::ZeroDuration() : costs_->waited();
}

void Blender::Learn(const BlendRequest& request, absl::Duration computed, Prefilled* prefilled) {
  if (costs_ == nullptr) return;
  const PromptShape shape = ShapeOf(request, config_, decoder_.config(), *prefilled);
  const double full = costs_->FullSeconds(ShapeOf(request, config_, decoder_.config()));
  prefilled->cost = {costs_->Predict(shape, prefilled->blended), absl::ToDoubleSeconds(computed),
                     full};
  costs_->Observe(prefilled->cost->predicted, prefilled->cost->compute_seconds);
}

}  // namespace tessera
