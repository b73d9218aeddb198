#include "gpu_worker/serve/drift.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "gpu_worker/blend/self_test.h"

namespace tessera {
namespace {

// Rows of one step: a request that comes waits for no more.
constexpr int64_t kStepRows = 64;

// FNV-1a, mixed (splitmix64): the same in every process.
uint64_t HashOf(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const unsigned char c : text) hash = (hash ^ c) * 0x100000001b3ull;
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9ull;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebull;
  return hash ^ (hash >> 31);
}

// Whether the sampler draws the likeliest token of the model's own logits.
bool IsPlainGreedy(const SamplingParams& params) {
  return params.temperature == 0 && params.presence_penalty == 0 && params.frequency_penalty == 0 &&
         params.repetition_penalty == 1 && params.logit_bias.empty() && params.min_tokens == 0 &&
         params.forced.empty();
}

}  // namespace

class DriftSampler::Listener final : public GenerationListener {
 public:
  Listener(DriftSampler* sampler, std::unique_ptr<GenerationListener> listener,
           const Generation* generation)
      : sampler_(*sampler), listener_(std::move(listener)), generation_(*generation) {}

  void OnPromptLogprobs(const std::vector<PromptLogprob>& positions) override {
    listener_->OnPromptLogprobs(positions);
  }
  void OnStarted(const Prefilled& prefilled, absl::Duration queued,
                 absl::Duration prefill) override {
    if (prefilled.blended) sample_.logits = prefilled.logits;
    listener_->OnStarted(prefilled, queued, prefill);
  }
  void OnToken(uint32_t index, const SampledToken& token) override {
    if (index == 0 && sample_.answer.size() < kMostTokens) sample_.answer.push_back(token.id);
    listener_->OnToken(index, token);
  }
  void OnAnswered(uint32_t index, bool ended, int64_t tokens) override {
    listener_->OnAnswered(index, ended, tokens);
  }
  void OnFinished(const absl::Status& status) override {
    listener_->OnFinished(status);
    if (!status.ok() || sample_.logits.empty()) return;
    sample_.prompt = generation_.prompt.Ids();
    sample_.greedy = IsPlainGreedy(generation_.sampling);
    sampler_.Offer(std::move(sample_));
  }

 private:
  DriftSampler& sampler_;
  const std::unique_ptr<GenerationListener> listener_;
  const Generation& generation_;
  Sample sample_;
};

DriftSampler::DriftSampler(double share, const Decoder* decoder, ValueHistogram* kl)
    : share_(share), decoder_(*decoder), kl_(*kl) {}

DriftSampler::~DriftSampler() = default;

bool DriftSampler::InShare(const std::string& request_id, double share) {
  return static_cast<double>(HashOf(request_id) >> 11) * 0x1p-53 < share;
}

std::unique_ptr<GenerationListener> DriftSampler::Sampled(
    std::unique_ptr<GenerationListener> listener, const Generation* generation) {
  if (share_ <= 0) return listener;
  const std::string& id = generation->request_id;
  if (!InShare(id.empty() ? absl::StrCat("unnamed ", unnamed_++) : id, share_)) return listener;
  return std::make_unique<Listener>(this, std::move(listener), generation);
}

void DriftSampler::Offer(Sample sample) {
  if (pending_ != nullptr) {
    ++skipped_;
    return;
  }
  pending_ = std::make_unique<Sample>(std::move(sample));
  done_ = 0;
}

bool DriftSampler::Step(const std::atomic<bool>& cancelled) {
  if (pending_ == nullptr) return false;
  const absl::Status status = RunRows(cancelled);
  const int64_t rows = static_cast<int64_t>(pending_->prompt.size() + pending_->answer.size()) - 1;
  if (status.ok() && done_ < rows) return true;
  ++(status.ok() ? measured_ : dropped_);
  pending_.reset();
  kv_ = KvMemory();
  return true;
}

// The prompt some rows at a time, then the answer one by one: its last token is only compared.
absl::Status DriftSampler::RunRows(const std::atomic<bool>& cancelled) {
  const auto prompt = static_cast<int64_t>(pending_->prompt.size());
  const auto answer = static_cast<int64_t>(pending_->answer.size());
  if (done_ == 0) kv_ = decoder_.MakeKv(prompt + answer);
  const bool in_prompt = done_ < prompt;
  const absl::Span<const uint32_t> ids =
      in_prompt ? absl::MakeConstSpan(pending_->prompt).subspan(done_, kStepRows)
                : absl::MakeConstSpan(pending_->answer).subspan(done_ - prompt, 1);
  ASSIGN_OR_RETURN(const Activations last, decoder_.Extend(kv_, ids, done_, cancelled));
  done_ += static_cast<int64_t>(ids.size());
  if (done_ < prompt) return absl::OkStatus();
  const Activations logits = decoder_.Logits(last);
  Compare(absl::MakeConstSpan(logits->data(), static_cast<size_t>(logits->cols)));
  return absl::OkStatus();
}

// full: logits of row done_ - 1.
void DriftSampler::Compare(absl::Span<const float> full) {
  const size_t token = done_ - pending_->prompt.size();  // that they predict
  if (token == 0) kl_.Observe(std::max(0.0, KlOfLogits(full, pending_->logits)));
  if (!pending_->greedy) return;
  const auto best = std::max_element(full.begin(), full.end()) - full.begin();
  ++(static_cast<uint32_t>(best) == pending_->answer[token] ? same_ : other_);
}

DriftSampler::Counters DriftSampler::counters() const {
  return {measured_, skipped_, dropped_, same_, other_};
}

void DriftSampler::AddSamples(MetricSamples* samples) const {
  const Counters counted = counters();
  const char* const outcomes = "Sampled requests, by what became of their full recompute.";
  const char* const tokens = "Tokens of greedy answers, by whether a full recompute says the same.";
  auto count = [samples](const char* name, const char* help, const char* label, const char* value,
                         uint64_t number) {
    samples->Counter(name, help, static_cast<double>(number), {{label, value}});
  };
  count("drift_samples", outcomes, "outcome", "measured", counted.measured);
  count("drift_samples", outcomes, "outcome", "skipped", counted.skipped);
  count("drift_samples", outcomes, "outcome", "dropped", counted.dropped);
  count("drift_tokens", tokens, "agreement", "same", counted.same);
  count("drift_tokens", tokens, "agreement", "other", counted.other);
}

}  // namespace tessera
