#include "gateway/access/access_control.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

// As OpenAI writes it: "1s", "6m0s", "20ms".
std::string ResetText(absl::Duration duration) {
  const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(duration, absl::Milliseconds(1)));
  if (ms < 1000) return absl::StrCat(ms, "ms");
  const int64_t seconds = (ms + 999) / 1000;
  if (seconds < 60) return absl::StrCat(seconds, "s");
  return absl::StrCat(seconds / 60, "m", seconds % 60, "s");
}

void AddState(const RateState& state, const char* what, http::Headers* headers) {
  if (state.limit == 0) return;
  headers->emplace_back(absl::StrCat("x-ratelimit-limit-", what), absl::StrCat(state.limit));
  headers->emplace_back(absl::StrCat("x-ratelimit-remaining-", what),
                        absl::StrCat(state.remaining));
  headers->emplace_back(absl::StrCat("x-ratelimit-reset-", what), ResetText(state.reset));
}

std::unique_ptr<RateLimiter> LimiterOf(const std::optional<ApiKeys>& keys) {
  if (!keys) return nullptr;
  std::vector<KeyLimits> limits;
  for (size_t i = 0; i < keys->size(); ++i) limits.push_back(keys->limits(i));
  return std::make_unique<RateLimiter>(std::move(limits));
}

}  // namespace

AccessControl::AccessControl(AccessOptions options)
    : options_(std::move(options)), limiter_(LimiterOf(options_.keys)) {}

bool AccessControl::IsOpen(const http::Request& request) const {
  return request.path == "/health" || request.path == "/ping" ||
         (request.path == "/metrics" && !options_.guard_metrics);
}

AccessDecision AccessControl::Check(const http::Request& request, absl::Time now) {
  AccessDecision decision;
  if (!options_.keys) return decision;
  const std::optional<size_t> key = options_.keys->Find(request.Header("authorization"));
  if (key) decision.caller = *key + 1;
  if (IsOpen(request)) return decision;
  if (!key) {
    decision.headers.emplace_back("WWW-Authenticate", "Bearer");
    decision.status = absl::UnauthenticatedError(
        request.Header("authorization").empty()
            ? "an API key is required: send it as 'Authorization: Bearer KEY'"
            : "the API key is not one of this server's: check the Authorization header");
    return decision;
  }
  if (request.method == "GET" || request.method == "HEAD") return decision;
  const Admission admission = limiter_->Admit(*key, now);
  AddState(admission.requests, "requests", &decision.headers);
  AddState(admission.tokens, "tokens", &decision.headers);
  if (!admission.admitted) {
    const int64_t seconds =
        absl::ToInt64Seconds(absl::Ceil(admission.retry_after, absl::Seconds(1)));
    decision.headers.emplace_back("Retry-After", absl::StrCat(seconds));
    decision.status = absl::ResourceExhaustedError(
        absl::StrCat("past the rate limit of this API key: retry in ", seconds, " seconds"));
  }
  return decision;
}

void AccessControl::Charge(size_t caller, uint64_t tokens, absl::Time now) {
  if (caller > 0 && limiter_ != nullptr) limiter_->Charge(caller - 1, tokens, now);
}

std::string AccessControl::CallerName(size_t caller) const {
  if (caller == 0 || !options_.keys) return {};
  return options_.keys->name(caller - 1);
}

}  // namespace tessera
