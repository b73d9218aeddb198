#include "gateway/access/access_control.h"

#include <map>

#include "gtest/gtest.h"

namespace tessera {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);

http::Request MakeRequest(const std::string& method, const std::string& path,
                          const std::string& key = "") {
  http::Request request;
  request.method = method;
  request.path = path;
  if (!key.empty()) request.headers.emplace_back("authorization", "Bearer " + key);
  return request;
}

std::map<std::string, std::string> HeadersOf(const AccessDecision& decision) {
  return {decision.headers.begin(), decision.headers.end()};
}

AccessOptions WithKeys(bool guard_metrics = true) {
  auto keys = ApiKeys::Parse("alice key-of-alice 2 90\nbob key-of-bob-\n");
  EXPECT_TRUE(keys.ok()) << keys.status();
  return {.keys = *std::move(keys), .guard_metrics = guard_metrics};
}

TEST(AccessControlTest, WithoutKeysAllIsOpen) {
  AccessControl access({});
  const AccessDecision decision = access.Check(MakeRequest("POST", "/v1/completions"), kStart);
  EXPECT_TRUE(decision.status.ok());
  EXPECT_EQ(decision.caller, 0u);
  EXPECT_TRUE(decision.headers.empty());
  access.Charge(0, 100, kStart);
  EXPECT_EQ(access.CallerName(0), "");
}

TEST(AccessControlTest, EveryRouteButTwoWantsAKey) {
  AccessControl access(WithKeys());
  for (const char* path : {"/v1/completions", "/v1/models", "/version", "/metrics", "/cluster",
                           "/nothing", "/", "", "/health/", "/HEALTH", "//health"}) {
    for (const char* method : {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}) {
      for (const char* key : {"", "key-of-alic", "key-of-alice-", "alice"}) {
        const AccessDecision decision = access.Check(MakeRequest(method, path, key), kStart);
        EXPECT_TRUE(absl::IsUnauthenticated(decision.status)) << method << " " << path;
        EXPECT_EQ(HeadersOf(decision)["WWW-Authenticate"], "Bearer");
        EXPECT_EQ(decision.status.message().find("key-of"), absl::string_view::npos);
      }
    }
    EXPECT_TRUE(access.Check(MakeRequest("GET", path, "key-of-alice"), kStart).status.ok());
  }
  for (const char* path : {"/health", "/ping"}) {
    EXPECT_TRUE(access.Check(MakeRequest("GET", path), kStart).status.ok());
  }
}

TEST(AccessControlTest, MetricsMayBeOpen) {
  AccessControl access(WithKeys(/*guard_metrics=*/false));
  EXPECT_TRUE(access.Check(MakeRequest("GET", "/metrics"), kStart).status.ok());
  EXPECT_FALSE(access.Check(MakeRequest("GET", "/version"), kStart).status.ok());
}

TEST(AccessControlTest, NamesCallers) {
  AccessControl access(WithKeys());
  EXPECT_EQ(access.Check(MakeRequest("GET", "/version", "key-of-alice"), kStart).caller, 1u);
  EXPECT_EQ(access.Check(MakeRequest("GET", "/version", "key-of-bob-"), kStart).caller, 2u);
  EXPECT_EQ(access.CallerName(1), "alice");
  EXPECT_EQ(access.CallerName(2), "bob");
}

TEST(AccessControlTest, LimitsWhatMakesWork) {
  AccessControl access(WithKeys());
  const auto post = MakeRequest("POST", "/v1/completions", "key-of-alice");
  auto headers = HeadersOf(access.Check(post, kStart));
  EXPECT_EQ(headers["x-ratelimit-limit-requests"], "2");
  EXPECT_EQ(headers["x-ratelimit-remaining-requests"], "1");
  EXPECT_EQ(headers["x-ratelimit-reset-requests"], "30s");
  EXPECT_EQ(headers["x-ratelimit-limit-tokens"], "90");
  EXPECT_EQ(headers["x-ratelimit-remaining-tokens"], "90");
  EXPECT_EQ(headers["x-ratelimit-reset-tokens"], "0ms");
  access.Charge(1, 180, kStart);
  const AccessDecision refused = access.Check(post, kStart);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status));
  headers = HeadersOf(refused);
  // 91 tokens to wait for, at 90 a minute.
  EXPECT_EQ(headers["Retry-After"], "61");
  EXPECT_EQ(headers["x-ratelimit-remaining-tokens"], "0");
  EXPECT_EQ(headers["x-ratelimit-reset-tokens"], "2m0s");
  // Reading costs nothing; neither does anybody else's debt.
  EXPECT_TRUE(access.Check(MakeRequest("GET", "/v1/models", "key-of-alice"), kStart).status.ok());
  EXPECT_TRUE(access.Check(MakeRequest("POST", "/tokenize", "key-of-bob-"), kStart).status.ok());
}

}  // namespace
}  // namespace tessera
