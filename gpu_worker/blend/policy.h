// Which cached rows are recomputed.
#ifndef TESSERA_GPU_WORKER_BLEND_POLICY_H_
#define TESSERA_GPU_WORKER_BLEND_POLICY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tessera {

// A row of the prompt, as a policy sees it.
struct PromptRows {
  int64_t count = 0;                // of all rows
  std::vector<int32_t> candidates;  // cached rows that are not exact, ascending
  std::vector<int32_t> first_rows;  // those among the first k of their chunk, ascending
};

// A selection policy by name: a value type.
//   query_v  the suffix's attention to a row (in each head its root mean square over the suffix's
//            rows) times the norm of its V, summed over heads and layers (default)
//   query    the mean attention, over the suffix's rows, heads and layers
//   hkvd_v, hkvd_k  the squared deviation of V or K at the check layer (CacheBlend, Yao et al.
//   2024) first_k  the first k rows of every chunk (EPIC, Hu et al. 2024) none, full, random (a
//   control, always the same rows)
// and sums of a scored policy with the first rows, such as query_v+first.
class SelectionPolicy {
 public:
  enum class Kind { kNone, kFull, kFirst, kRandom, kQuery, kQueryV, kHkvdV, kHkvdK };

  SelectionPolicy() = default;

  // INVALID_ARGUMENT names the policies there are.
  static absl::StatusOr<SelectionPolicy> Parse(std::string_view name);

  Kind kind() const { return kind_; }
  const std::string& name() const { return name_; }

  // Scores come from a pass of the suffix over the placed chunks.
  bool needs_query_pass() const { return kind_ == Kind::kQuery || kind_ == Kind::kQueryV; }
  // Scores are the deviation at the check layer.
  bool needs_deviation() const { return kind_ == Kind::kHkvdV || kind_ == Kind::kHkvdK; }
  // Whether correction is on when a request does not say.
  bool corrects_by_default() const { return needs_query_pass(); }

  // The rows to recompute, ascending. scores: one per row of the prompt where the policy needs
  // them, otherwise not read. The scored policies and random take ceil(ratio x candidates) rows;
  // equal scores go to the earlier row.
  std::vector<int32_t> Select(const PromptRows& rows, absl::Span<const float> scores,
                              double ratio) const;

 private:
  Kind kind_ = Kind::kQueryV;
  bool plus_first_ = false;
  std::string name_ = "query_v";
};

// ceil(ratio x candidates), for a ratio that may have come through a float.
int64_t RecomputeBudget(double ratio, int64_t candidates);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_POLICY_H_
