#include "gpu_worker/blend/policy.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <utility>

#include "absl/base/casts.h"
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

// A number that is the larger the better the row: by score, then by place. A device waits while
// rows are picked, and whole numbers are compared several times as fast as scores looked up by row.
uint64_t Rank(float score, int32_t row) {
  const auto bits = absl::bit_cast<uint32_t>(score + 0.0f);  // -0 and 0 are equal
  const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | uint32_t{1} << 31;
  return uint64_t{ordered} << 32 | ~static_cast<uint32_t>(row);
}

// The n-th largest (n >= 1). By their leading bits first: then few are left to compare.
uint64_t NthLargest(const std::vector<uint64_t>& ranks, int64_t n) {
  constexpr int kShift = 64 - 12;
  std::vector<int32_t> counts(size_t{1} << (64 - kShift));
  for (const uint64_t rank : ranks) ++counts[rank >> kShift];
  uint64_t leading = counts.size() - 1;
  while (counts[leading] < n) n -= counts[leading--];
  std::vector<uint64_t> left;
  for (const uint64_t rank : ranks) {
    if (rank >> kShift == leading) left.push_back(rank);
  }
  std::nth_element(left.begin(), left.begin() + n - 1, left.end(), std::greater<>());
  return left[n - 1];
}

// The `budget` candidates with the best scores, ascending as the candidates are.
std::vector<int32_t> Best(absl::Span<const int32_t> candidates, absl::Span<const float> scores,
                          int64_t budget) {
  const auto count = static_cast<int64_t>(candidates.size());
  if (budget >= count) return {candidates.begin(), candidates.end()};
  std::vector<int32_t> rows;
  if (budget == 0) return rows;
  std::vector<uint64_t> ranks(count);
  for (int64_t i = 0; i < count; ++i) ranks[i] = Rank(scores[candidates[i]], candidates[i]);
  const uint64_t worst = NthLargest(ranks, budget);
  rows.reserve(budget);
  for (int64_t i = 0; i < count; ++i) {
    if (ranks[i] >= worst) rows.push_back(candidates[i]);
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
