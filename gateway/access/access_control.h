// Who may use the gateway, and how much.
#ifndef TESSERA_GATEWAY_ACCESS_ACCESS_CONTROL_H_
#define TESSERA_GATEWAY_ACCESS_ACCESS_CONTROL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gateway/access/api_keys.h"
#include "gateway/access/rate_limiter.h"
#include "gateway/http/message.h"

namespace tessera {

struct AccessOptions {
  // Absent: everybody may do everything.
  std::optional<ApiKeys> keys;
  // Whether /metrics wants a key too.
  bool guard_metrics = true;
};

// What was found about one request.
struct AccessDecision {
  // 1 and up: whose key was shown, by its place in the file; 0: nobody's.
  size_t caller = 0;
  // OK; UNAUTHENTICATED (no key, or none of ours); RESOURCE_EXHAUSTED (past a limit of its key).
  absl::Status status;
  // For the response, whatever it is: WWW-Authenticate, Retry-After, x-ratelimit-*.
  http::Headers headers;
};

// Thread-safe.
class AccessControl {
 public:
  explicit AccessControl(AccessOptions options);

  // Every route but /health and /ping wants a key, those that do not exist too. What makes work
  // (all but GET and HEAD) counts against the key's requests.
  AccessDecision Check(const http::Request& request, absl::Time now);

  // Tokens that this caller's request used; 0 is nobody and costs nothing.
  void Charge(size_t caller, uint64_t tokens, absl::Time now);

  // For logs and metrics; "" for nobody.
  std::string CallerName(size_t caller) const;

 private:
  bool IsOpen(const http::Request& request) const;

  const AccessOptions options_;
  std::unique_ptr<RateLimiter> limiter_;  // null without keys
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ACCESS_ACCESS_CONTROL_H_
