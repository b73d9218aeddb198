// Sampling by the summary of a row that lies on a device. It must draw what the whole row would
// have drawn: where sums of the device decide, they differ from the program's own by rounding
// (doubles, a few hundred thousand of them: less than 1e-10 of the whole), so whatever comes closer
// to a decision than kMargin of the whole is left to the whole row.
#include <algorithm>
#include <cmath>
#include <optional>

#include "gpu_worker/serve/sampler.h"

namespace tessera {
namespace {

constexpr double kMargin = 1e-9;

// How far the likeliest token of segment s is below that of the row.
double Below(const LogitsSummary& summary, size_t s) {
  return static_cast<double>(summary.tops[s]) - summary.likeliest[0];
}

double LogSum(const LogitsSummary& summary) {
  double sum = 0;
  for (size_t s = 0; s < summary.tops.size(); ++s) {
    sum += summary.masses[s] * std::exp(Below(summary, s));
  }
  return summary.likeliest[0] + std::log(sum);
}

double MassOf(const LogitsSummary& summary, size_t s, float temperature) {
  return summary.masses_at_temperature[s] * std::exp(Below(summary, s) / temperature);
}

double MassOfAll(const LogitsSummary& summary, float temperature) {
  double mass = 0;
  for (size_t s = 0; s < summary.tops.size(); ++s) mass += MassOf(summary, s, temperature);
  return mass;
}

}  // namespace

SampledToken Sampler::Next(const LogitsRow& row) {
  if (row.summary()) {
    if (std::optional<SampledToken> token = NextOfSummary(row)) return *std::move(token);
  }
  return Next(row.All());
}

std::optional<SampledToken> Sampler::NextOfSummary(const LogitsRow& row) {
  const LogitsSummary& summary = *row.summary();
  const size_t listed = summary.likeliest.size();
  const bool adjusts = !params_.logit_bias.empty() || penalizes_answer() || masks();
  if (adjusts || drawn_ < params_.forced.size() || params_.top_logprobs > listed) return {};
  const double log_sum = LogSum(summary);
  if (!std::isfinite(log_sum)) return {};  // a NaN, an infinite logit, or all are masked
  const std::optional<TokenLogit> chosen = ChooseOfSummary(row);
  if (!chosen) return {};
  ++drawn_;
  auto logprob = [log_sum](float logit) { return static_cast<float>(logit - log_sum); };
  SampledToken token = {chosen->id, logprob(chosen->logit), {}};
  for (size_t i = 0; i < params_.top_logprobs; ++i) {
    token.top.push_back({static_cast<uint32_t>(summary.ids[i]), logprob(summary.likeliest[i])});
  }
  return token;
}

std::optional<TokenLogit> Sampler::ChooseOfSummary(const LogitsRow& row) {
  const LogitsSummary& summary = *row.summary();
  size_t chosen = 0;
  if (params_.temperature > 0) {
    if (keeps_all()) return DrawFromSegments(row);
    if (!TruncateSummary(summary)) return {};
    chosen = DrawByWeight();  // of a list that begins as the summary's
  }
  return TokenLogit{static_cast<uint32_t>(summary.ids[chosen]), summary.likeliest[chosen]};
}

// All stay, and lots are in the order of their ids: the lot's segment is read, no other.
std::optional<TokenLogit> Sampler::DrawFromSegments(const LogitsRow& row) {
  const LogitsSummary& summary = *row.summary();
  const std::mt19937_64 before = random_;
  const double mass = MassOfAll(summary, params_.temperature);
  const double target = Uniform() * mass;
  double passed = 0;
  size_t s = 0;
  for (; s < summary.tops.size(); ++s) {
    const double upto = passed + MassOf(summary, s, params_.temperature);
    if (upto > target) break;
    passed = upto;
  }
  const auto first = static_cast<int64_t>(s) * LogitsSummary::kSegment;
  if (s < summary.tops.size()) {
    const absl::Span<const float> logits = row.Read(first, LogitsSummary::kSegment);
    for (size_t i = 0; i < logits.size(); ++i) {
      const double upto = passed + WeightOf(logits[i], summary.likeliest[0]);
      const double margin = kMargin * mass;
      if (target - passed > margin && upto - target > margin) {
        return TokenLogit{static_cast<uint32_t>(first) + static_cast<uint32_t>(i), logits[i]};
      }
      if (upto > target) break;  // too close to say
      passed = upto;
    }
  }
  random_ = before;
  return {};
}

// False: more may stay than the summary lists.
bool Sampler::TruncateSummary(const LogitsSummary& summary) {
  const float top = summary.likeliest[0];
  const size_t listed = summary.likeliest.size();
  const bool is_all = listed < static_cast<size_t>(LogitsSummary::kMostLikeliest);
  size_t count = listed;
  double mass = 0;
  if (params_.top_k > 0) {
    if (params_.top_k > listed && !is_all) return false;
    count = std::min<size_t>(count, params_.top_k);
    for (size_t i = 0; i < count; ++i) mass += WeightOf(summary.likeliest[i], top);
  } else {
    mass = MassOfAll(summary, params_.temperature);
  }
  // Of the likeliest top_k the mass is the very one that the whole row gives.
  const double margin = params_.top_k > 0 || params_.top_p >= 1 ? 0 : kMargin * mass;
  KeepNone();
  for (size_t i = 0; i < count; ++i) {
    const double short_of = params_.top_p * mass - reached_;
    if (!ids_.empty() && std::abs(short_of) < margin) return false;
    if (!Keep(static_cast<uint32_t>(summary.ids[i]), WeightOf(summary.likeliest[i], top), mass)) {
      return true;
    }
  }
  return params_.top_k > 0 || is_all;
}

}  // namespace tessera
