#include "gpu_worker/calibrate/budget.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace tessera {
namespace {

double Bounded(const CandidateFigures& figures, Budget::Kind kind) {
  return kind == Budget::Kind::kKl ? figures.kl16 : figures.ttft_share;
}

double Free(const CandidateFigures& figures, Budget::Kind kind) {
  return kind == Budget::Kind::kKl ? figures.ttft_share : figures.kl16;
}

}  // namespace

absl::StatusOr<Budget> Budget::Parse(const std::string& text) {
  const std::string lower = absl::AsciiStrToLower(text);
  absl::string_view number = lower;
  Budget budget;
  bool known = absl::ConsumePrefix(&number, "kl=");
  if (!known && absl::ConsumePrefix(&number, "ttft=")) {
    known = true;
    budget.kind = Kind::kTtft;
    absl::ConsumeSuffix(&number, "x");
  }
  if (known && absl::SimpleAtod(number, &budget.most) && budget.most > 0 && budget.most <= 1e6) {
    return budget;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--budget is '", absl::CHexEscape(text.substr(0, 64)),
      "': give KL=0.2 for the fastest way to blend whose mean KL to a full recompute is at most "
      "0.2 nats, or ttft=0.4x for the closest that takes at most 0.4 of a full prefill's time"));
}

bool Budget::Allows(const CandidateFigures& figures) const {
  return Bounded(figures, kind) <= most;
}

std::optional<size_t> Choose(absl::Span<const CandidateFigures> all, const Budget& budget) {
  auto cost = [&](const CandidateFigures& f) {
    return std::pair(Free(f, budget.kind), Bounded(f, budget.kind));
  };
  std::optional<size_t> best;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!budget.Allows(all[i])) continue;
    if (!best.has_value() || cost(all[i]) < cost(all[*best])) best = i;
  }
  return best;
}

size_t Nearest(absl::Span<const CandidateFigures> all, const Budget& budget) {
  return std::min_element(all.begin(), all.end(),
                          [&](const CandidateFigures& a, const CandidateFigures& b) {
                            return Bounded(a, budget.kind) < Bounded(b, budget.kind);
                          }) -
         all.begin();
}

}  // namespace tessera
