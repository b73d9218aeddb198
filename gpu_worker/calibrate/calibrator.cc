#include "gpu_worker/calibrate/calibrator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <utility>

#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "glog/logging.h"
#include "gpu_worker/blend/self_test.h"

namespace tessera {
namespace {

using Kind = SelectionPolicy::Kind;

bool TakesRatio(const SelectionPolicy& policy) {
  return policy.kind() != Kind::kNone && policy.kind() != Kind::kFull &&
         policy.kind() != Kind::kFirst;
}

bool CanCorrect(const SelectionPolicy& policy) {
  return policy.kind() != Kind::kFull && policy.name() != "none";
}

uint32_t Likeliest(absl::Span<const float> logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double Mean(absl::Span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double StandardError(absl::Span<const double> values) {
  if (values.size() < 2) return 0;
  const double mean = Mean(values);
  double squares = 0;
  for (double x : values) squares += (x - mean) * (x - mean);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / (n - 1) / n);
}

// Of chunks, which are bf16 and half the KV memory's size.
int64_t BytesOfLongestPrompt(const Decoder& decoder) {
  return decoder.max_len() * KvMemory::BytesPerToken(decoder.config(), DType::kBf16);
}

int64_t SinksOf(absl::Span<const Candidate> candidates) {
  std::set<SinkKind> sinks;
  for (const Candidate& candidate : candidates) sinks.insert(candidate.sink);
  return static_cast<int64_t>(sinks.size());
}

}  // namespace

std::vector<Candidate> MakeCandidates(absl::Span<const SinkKind> sinks,
                                      absl::Span<const SelectionPolicy> policies,
                                      absl::Span<const double> ratios) {
  const std::vector<double> no_ratio = {0.0};
  std::vector<Candidate> candidates;
  for (const SinkKind sink : sinks) {
    for (const SelectionPolicy& policy : policies) {
      for (const double ratio : TakesRatio(policy) ? ratios : absl::MakeConstSpan(no_ratio)) {
        candidates.push_back({sink, policy, ratio, false});
        if (CanCorrect(policy)) candidates.push_back({sink, policy, ratio, true});
      }
    }
  }
  return candidates;
}

Calibrator::Calibrator(const Decoder* decoder, const ChunkKey& fingerprint, const BlendConfig& base,
                       std::vector<Candidate> candidates)
    : decoder_(*decoder),
      candidates_(std::move(candidates)),
      no_cache_(MakeNullCacheClient()),
      pool_(BytesOfLongestPrompt(*decoder) * SinksOf(candidates_)),
      samples_(candidates_.size()) {
  for (const Candidate& candidate : candidates_) {
    std::unique_ptr<Blender>& blender = blenders_[candidate.sink];
    if (blender != nullptr) continue;
    BlendConfig config = base;
    config.sink = candidate.sink;
    blender = std::make_unique<Blender>(decoder, no_cache_.get(), fingerprint, config, &pool_);
  }
  CHECK(!blenders_.empty());
}

BlendRequest Calibrator::RequestOf(const TokenCase& prompt) const {
  BlendRequest request;
  request.segments = prompt;
  request.store = false;
  request.max_new_tokens = kForced;
  return request;
}

absl::StatusOr<Calibrator::Answer> Calibrator::Run(Blender& blender, const BlendRequest& request,
                                                   const CancelFlag& cancelled,
                                                   const std::vector<uint32_t>* forced) {
  const absl::Time start = absl::Now();
  ASSIGN_OR_RETURN(const Prefilled prefilled, blender.Prefill(request, cancelled));
  Answer answer;
  answer.seconds = absl::ToDoubleSeconds(absl::Now() - start);
  answer.picked = static_cast<int64_t>(prefilled.picked.size());
  answer.logits.push_back(prefilled.logits);
  const std::vector<uint32_t>& ends = decoder_.config().eos_token_ids;
  while (true) {
    const size_t i = answer.ids.size();
    const uint32_t id = forced != nullptr ? (*forced)[i] : Likeliest(answer.logits.back());
    answer.ids.push_back(id);
    const bool ended = forced != nullptr ? i + 1 == forced->size()
                                         : i + 1 == kForced || std::find(ends.begin(), ends.end(),
                                                                         id) != ends.end();
    if (ended) return answer;
    if (cancelled.IsSet()) return absl::CancelledError("the calibration was stopped");
    const DecodeRow row = {&prefilled.kv, id, prefilled.tokens + static_cast<int64_t>(i)};
    const Activations logits = decoder_.DecodeRows({&row, 1});
    answer.logits.emplace_back(logits->data(), logits->data() + logits->cols);
  }
}

absl::Status Calibrator::MakeResident(Blender& blender, BlendRequest request,
                                      const CancelFlag& cancelled) {
  ASSIGN_OR_RETURN(request.policy, SelectionPolicy::Parse("none"));
  request.store = true;
  return blender.Prefill(request, cancelled).status();  // what is fresh stays in the pool
}

absl::Status Calibrator::Measure(const TokenCase& prompt, const CancelFlag& cancelled,
                                 const std::function<void()>& on_step) {
  BlendRequest request = RequestOf(prompt);
  request.exact = true;
  Blender& any = *blenders_.begin()->second;
  // The first prefill of a process also reads the weights from disk.
  if (full_seconds_.empty()) {
    RETURN_IF_ERROR(any.Prefill(request, cancelled).status());
  }
  ASSIGN_OR_RETURN(const Answer full, Run(any, request, cancelled, nullptr));
  request.exact = false;
  for (const auto& [sink, blender] : blenders_) {
    RETURN_IF_ERROR(MakeResident(*blender, request, cancelled));
  }
  on_step();
  const auto tokens = static_cast<double>(request.Ids().size());
  std::vector<Sample> samples;
  for (const Candidate& candidate : candidates_) {
    request.policy = candidate.policy;
    request.recompute_ratio = candidate.ratio;
    request.correction = candidate.correction;
    ASSIGN_OR_RETURN(const Answer blend,
                     Run(*blenders_.at(candidate.sink), request, cancelled, &full.ids));
    Sample sample;
    int64_t same = 0;
    for (size_t i = 0; i < full.ids.size(); ++i) {
      // Rounding may leave a hair less than nothing.
      sample.kls.push_back(std::max(0.0, KlOfLogits(full.logits[i], blend.logits[i])));
      same += Likeliest(full.logits[i]) == Likeliest(blend.logits[i]);
    }
    sample.top1 = static_cast<double>(same) / static_cast<double>(full.ids.size());
    sample.rows = static_cast<double>(blend.picked) / tokens;
    sample.seconds = blend.seconds;
    sample.share = blend.seconds / full.seconds;
    samples.push_back(std::move(sample));
    on_step();
  }
  // All of a case or nothing, so that every candidate has seen the same cases.
  for (size_t i = 0; i < samples.size(); ++i) samples_[i].push_back(std::move(samples[i]));
  full_seconds_.push_back(full.seconds);
  return absl::OkStatus();
}

CandidateFigures Calibrator::FiguresOf(const Candidate& candidate,
                                       absl::Span<const Sample> samples) const {
  std::vector<double> first, mean, every, top1, rows, seconds, share;
  for (const Sample& sample : samples) {
    first.push_back(sample.kls.front());
    mean.push_back(Mean(sample.kls));
    every.insert(every.end(), sample.kls.begin(), sample.kls.end());
    top1.push_back(sample.top1);
    rows.push_back(sample.rows);
    seconds.push_back(sample.seconds);
    share.push_back(sample.share);
  }
  CandidateFigures figures;
  figures.candidate = candidate;
  figures.cases = static_cast<int64_t>(samples.size());
  figures.kl1 = Mean(first);
  figures.kl16 = Mean(mean);
  figures.kl16_error = StandardError(mean);
  figures.kl16_median = Median(every);
  figures.kl16_worst = *std::max_element(every.begin(), every.end());
  figures.top1 = Mean(top1);
  figures.rows = Mean(rows);
  figures.ttft_seconds = Median(seconds);
  figures.ttft_share = Median(share);
  return figures;
}

std::vector<CandidateFigures> Calibrator::Figures() const {
  std::vector<CandidateFigures> all;
  if (full_seconds_.empty()) return all;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    all.push_back(FiguresOf(candidates_[i], samples_[i]));
  }
  return all;
}

double Calibrator::full_seconds() const { return Median(full_seconds_); }

}  // namespace tessera
