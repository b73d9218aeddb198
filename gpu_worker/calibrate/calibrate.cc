#include "gpu_worker/calibrate/calibrate.h"

#include <unistd.h>

#include <cstdio>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "gpu_worker/calibrate/budget.h"
#include "gpu_worker/calibrate/calibration.h"
#include "gpu_worker/calibrate/calibrator.h"
#include "gpu_worker/calibrate/sink_name.h"
#include "gpu_worker/calibrate/token_cases.h"

namespace tessera {
namespace {

constexpr absl::Duration kBetweenLines = absl::Seconds(15);

// A bar on a terminal, a line now and then elsewhere; on standard error.
class Progress {
 public:
  explicit Progress(size_t steps) : steps_(steps) {}

  void Step() {
    ++done_;
    const absl::Time now = absl::Now();
    const bool terminal = isatty(STDERR_FILENO) == 1, last = done_ == steps_;
    if (!terminal && !last && now - said_ < kBetweenLines) return;
    said_ = now;
    const double left = absl::ToDoubleSeconds(now - start_) / static_cast<double>(done_) *
                        static_cast<double>(steps_ - done_);
    const std::string filled(30 * done_ / steps_, '#');
    absl::FPrintF(stderr, "%s[%-30s] %d of %d, %.0f s left%s", terminal ? "\r\x1b[K" : "", filled,
                  done_, steps_, left, terminal && !last ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  const size_t steps_;
  const absl::Time start_ = absl::Now();
  absl::Time said_ = start_;
  size_t done_ = 0;
};

absl::StatusOr<std::vector<Candidate>> CandidatesOf(const CalibrateOptions& options,
                                                    SinkKind configured) {
  std::vector<SinkKind> sinks;
  for (const std::string& name : options.sinks) {
    ASSIGN_OR_RETURN(sinks.emplace_back(), ParseSink(name));
  }
  if (sinks.empty()) sinks.push_back(configured);
  std::vector<SelectionPolicy> policies;
  for (const std::string& name : options.policies) {
    ASSIGN_OR_RETURN(policies.emplace_back(), SelectionPolicy::Parse(name));
  }
  std::vector<double> ratios;
  for (const std::string& text : options.ratios) {
    double ratio = 0;
    if (!absl::SimpleAtod(text, &ratio) || !(ratio >= 0 && ratio <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--calibrate_ratios: '", text, "' is no number between 0 and 1"));
    }
    ratios.push_back(ratio);
  }
  std::vector<Candidate> candidates = MakeCandidates(sinks, policies, ratios);
  if (!candidates.empty()) return candidates;
  return absl::InvalidArgumentError(
      "nothing to calibrate: give --calibrate_policies, and --calibrate_ratios for those that take "
      "one");
}

std::string NameOf(const Candidate& candidate) {
  return absl::StrFormat("%s, ratio %.2f, %s, sink %s", candidate.policy.name(), candidate.ratio,
                         candidate.correction ? "corrected" : "not corrected",
                         SinkName(candidate.sink));
}

void PrintTable(const std::vector<CandidateFigures>& all, std::optional<size_t> chosen,
                double full_seconds) {
  absl::PrintF("%d cases, full prefill %.0f ms; KL in nats, TTFT with resident chunks\n",
               all.front().cases, 1e3 * full_seconds);
  absl::PrintF("%-5s %-14s %5s %4s %8s %8s %8s %8s %8s %6s %6s %8s %6s\n", "sink", "policy",
               "ratio", "corr", "KL1", "KL16", "+-", "median", "worst", "top1", "rows", "TTFT ms",
               "share");
  for (size_t i = 0; i < all.size(); ++i) {
    const CandidateFigures& f = all[i];
    absl::PrintF("%-5s %-14s %5.2f %4s %8.4f %8.4f %8.4f %8.4f %8.3f %6.3f %6.3f %8.0f %6.2f%s\n",
                 SinkName(f.candidate.sink), f.candidate.policy.name(), f.candidate.ratio,
                 f.candidate.correction ? "yes" : "no", f.kl1, f.kl16, f.kl16_error, f.kl16_median,
                 f.kl16_worst, f.top1, f.rows, 1e3 * f.ttft_seconds, f.ttft_share,
                 chosen == i ? " <- chosen" : "");
  }
  std::fflush(stdout);
}

int64_t MeanTokens(const std::vector<TokenCase>& cases) {
  size_t tokens = 0;
  for (const TokenCase& prompt : cases) {
    for (const auto& segment : prompt) tokens += segment.size();
  }
  return static_cast<int64_t>(tokens / cases.size());
}

Calibration CalibrationOf(const CandidateFigures& figures, const Decoder& decoder,
                          const ChunkKey& fingerprint, const std::string& budget) {
  Calibration calibration;
  calibration.fingerprint = fingerprint.ToHex();
  calibration.policy = figures.candidate.policy.name();
  calibration.recompute_ratio = figures.candidate.ratio;
  calibration.correction = figures.candidate.correction;
  calibration.sink = SinkName(figures.candidate.sink);
  calibration.budget = budget;
  calibration.date = absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone());
  calibration.device = decoder.ops().name();
  calibration.cases = figures.cases;
  calibration.kl1 = figures.kl1;
  calibration.kl16 = figures.kl16;
  calibration.kl16_worst = figures.kl16_worst;
  calibration.ttft_share = figures.ttft_share;
  return calibration;
}

}  // namespace

absl::Status Calibrate(const CalibrateOptions& options, const Decoder& decoder,
                       const ChunkKey& fingerprint, const BlendConfig& base,
                       const CancelFlag& cancelled) {
  ASSIGN_OR_RETURN(const Budget budget, Budget::Parse(options.budget));
  ASSIGN_OR_RETURN(std::vector<Candidate> candidates, CandidatesOf(options, base.sink));
  ASSIGN_OR_RETURN(const std::vector<TokenCase> cases,
                   ReadTokenCases(options.cases, decoder.config(), options.model_folder,
                                  decoder.max_len() - Calibrator::kForced));
  Progress progress(cases.size() * (1 + candidates.size()));
  Calibrator calibrator(&decoder, fingerprint, base, std::move(candidates));
  for (const TokenCase& prompt : cases) {
    RETURN_IF_ERROR(calibrator.Measure(prompt, cancelled, [&] { progress.Step(); }));
  }
  const std::vector<CandidateFigures> all = calibrator.Figures();
  const std::optional<size_t> chosen = Choose(all, budget);
  PrintTable(all, chosen, calibrator.full_seconds());
  if (!chosen.has_value()) {
    const CandidateFigures& nearest = all[Nearest(all, budget)];
    return absl::NotFoundError(absl::StrFormat(
        "nothing keeps within the budget %s, and no calibration was written. Nearest: %s, with "
        "KL16 "
        "%.4f at %.2f of a full prefill's time. Raise the budget, or give --calibrate_ratios and "
        "--calibrate_sinks more to choose from",
        options.budget, NameOf(nearest.candidate), nearest.kl16, nearest.ttft_share));
  }
  Calibration calibration = CalibrationOf(all[*chosen], decoder, fingerprint, options.budget);
  calibration.mean_tokens = MeanTokens(cases);
  RETURN_IF_ERROR(WriteCalibration(options.model_folder, calibration));
  absl::PrintF("%s: %s; every worker of this model starts with it\n",
               CalibrationPath(options.model_folder), NameOf(all[*chosen].candidate));
  return absl::OkStatus();
}

}  // namespace tessera
