#include "gpu_worker/blend/policy.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using Kind = SelectionPolicy::Kind;

constexpr std::pair<std::string_view, Kind> kNames[] = {
    {"query_v", Kind::kQueryV}, {"query", Kind::kQuery},   {"hkvd_v", Kind::kHkvdV},
    {"hkvd_k", Kind::kHkvdK},   {"first_k", Kind::kFirst}, {"none", Kind::kNone},
    {"full", Kind::kFull},      {"random", Kind::kRandom}};

constexpr std::string_view kPlusFirst = "+first";
// Of a name that is unknown, so much is shown.
constexpr size_t kShownName = 64;

// SplitMix64 (Steele et al. 2014) of the row's number, as a number below 1.
float RandomScore(uint64_t row) {
  uint64_t z = (row + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-24f;
}

std::vector<int32_t> Best(absl::Span<const int32_t> candidates, absl::Span<const float> scores,
                          int64_t budget) {
  std::vector<int32_t> rows(candidates.begin(), candidates.end());
  if (budget < static_cast<int64_t>(rows.size())) {
    std::nth_element(rows.begin(), rows.begin() + budget, rows.end(), [&](int32_t a, int32_t b) {
      return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
    });
    rows.resize(budget);
    std::sort(rows.begin(), rows.end());
  }
  return rows;
}

}  // namespace

int64_t RecomputeBudget(double ratio, int64_t candidates) {
  // 0.15 as a float is a little more than 0.15: without rounding 20 candidates would give 4 rows,
  // not 3.
  const double exact = std::round(ratio * 1e6) / 1e6;
  const auto budget = static_cast<int64_t>(std::ceil(exact * static_cast<double>(candidates)));
  return std::clamp<int64_t>(budget, 0, candidates);
}

absl::StatusOr<SelectionPolicy> SelectionPolicy::Parse(std::string_view name) {
  SelectionPolicy policy;
  policy.name_ = std::string(name);
  std::string_view base = name;
  if (base.ends_with(kPlusFirst)) {
    policy.plus_first_ = true;
    base.remove_suffix(kPlusFirst.size());
  }
  for (const auto& [known, kind] : kNames) {
    if (known != base) continue;
    policy.kind_ = kind;
    return policy;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "policy '", absl::CHexEscape(policy.name_.substr(0, kShownName)),
      "' is unknown: use query_v, query, hkvd_v, hkvd_k, first_k, none, full or random, "
      "or one of them with +first"));
}

std::vector<int32_t> SelectionPolicy::Select(const PromptRows& rows, absl::Span<const float> scores,
                                             double ratio) const {
  const int64_t budget = RecomputeBudget(ratio, static_cast<int64_t>(rows.candidates.size()));
  std::vector<int32_t> picked;
  switch (kind_) {
    case Kind::kNone:
      break;
    case Kind::kFull:
      picked = rows.candidates;
      break;
    case Kind::kFirst:
      picked = rows.first_rows;
      break;
    case Kind::kRandom: {
      std::vector<float> random(rows.count);
      for (int64_t r = 0; r < rows.count; ++r) random[r] = RandomScore(r);
      picked = Best(rows.candidates, random, budget);
      break;
    }
    default:
      picked = Best(rows.candidates, scores, budget);
  }
  if (!plus_first_) return picked;
  std::vector<int32_t> both;
  std::set_union(picked.begin(), picked.end(), rows.first_rows.begin(), rows.first_rows.end(),
                 std::back_inserter(both));
  return both;
}

}  // namespace tessera
