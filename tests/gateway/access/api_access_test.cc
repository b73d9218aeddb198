// API keys and their limits, over the whole gateway.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/gateway/openai/api_fixture.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

constexpr char kAlice[] = "Authorization: Bearer key-of-alice\r\n";
constexpr char kBob[] = "Authorization: Bearer key-of-bob-\r\n";
constexpr char kMallory[] = "Authorization: Bearer key-of-mallory\r\n";
constexpr char kPrompt[] = R"({"prompt": "hello", "max_tokens": 3})";

class ApiAccessTest : public ApiFixture {
 protected:
  void SetUp() override {
    ApiFixture::SetUp();
    UseKeys("alice key-of-alice\nbob key-of-bob- 2 20\n");
  }

  void UseKeys(const std::string& file, bool guard_metrics = true) {
    ApiOptions options;
    auto keys = ApiKeys::Parse(file);
    ASSERT_TRUE(keys.ok()) << keys.status();
    options.access = {.keys = *std::move(keys), .guard_metrics = guard_metrics};
    StartGateway(options);
    AwaitReady(true);
  }
};

TEST_F(ApiAccessTest, EveryRouteButTwoWantsAKey) {
  struct {
    const char* method;
    const char* path;
  } const guarded[] = {
      {"POST", kCompletions},  {"POST", kChat},          {"GET", "/v1/models"},
      {"GET", "/v1/models/x"}, {"POST", "/tokenize"},    {"POST", "/detokenize"},
      {"GET", "/version"},     {"GET", "/metrics"},      {"GET", "/cluster"},
      {"GET", "/v1/chunks"},   {"POST", "/v1/chunks"},   {"DELETE", "/v1/chunks/x"},
      {"GET", "/nothing"},     {"DELETE", "/v1/models"}, {"POST", "/health2"}};
  for (const auto& [method, path] : guarded) {
    for (const char* header :
         {"", kMallory, "Authorization: Basic key-of-alice\r\n", "X-Api-Key: key-of-alice\r\n"}) {
      const ClientResponse response = Call(method, path, kPrompt, header);
      EXPECT_EQ(response.status, 401) << method << " " << path;
      EXPECT_EQ(response.headers.at("www-authenticate"), "Bearer");
      const json::value error = json::parse(response.body).at("error");
      EXPECT_EQ(error.at("code"), "invalid_api_key");
      EXPECT_EQ(error.at("type"), "invalid_request_error");
      EXPECT_FALSE(absl::StrContains(response.body, "key-of")) << response.body;
    }
    EXPECT_NE(Call(method, path, kPrompt, kAlice).status, 401) << method << " " << path;
  }
  EXPECT_EQ(Call("GET", "/health").status, 200);
  EXPECT_EQ(Call("GET", "/ping").status, 200);
  EXPECT_EQ(Call("POST", kCompletions, kPrompt, kAlice).status, 200);
}

TEST_F(ApiAccessTest, MetricsMayBeOpenAndNameNoKey) {
  UseKeys("alice key-of-alice\n", /*guard_metrics=*/false);
  EXPECT_EQ(Call("POST", kCompletions, kPrompt, kAlice).status, 200);
  const ClientResponse metrics = Call("GET", "/metrics");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_FALSE(absl::StrContains(metrics.body, "key-of"));
  EXPECT_EQ(Call("GET", "/cluster").status, 401);
}

TEST_F(ApiAccessTest, RequestsAreLimitedByKey) {
  for (const char* left : {"1", "0"}) {
    const ClientResponse response = Call("POST", "/tokenize", R"({"prompt": "x"})", kBob);
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.headers.at("x-ratelimit-limit-requests"), "2");
    EXPECT_EQ(response.headers.at("x-ratelimit-remaining-requests"), left);
    EXPECT_TRUE(response.headers.contains("x-ratelimit-reset-requests"));
  }
  const ClientResponse refused = Call("POST", "/tokenize", R"({"prompt": "x"})", kBob);
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(json::parse(refused.body).at("error").at("code"), "rate_limit_exceeded");
  EXPECT_EQ(json::parse(refused.body).at("error").at("type"), "rate_limit_error");
  const int wait = std::stoi(refused.headers.at("retry-after"));
  EXPECT_GT(wait, 20);
  EXPECT_LE(wait, 30);
  // Others, and what makes no work, go on.
  const ClientResponse other = Call("POST", "/tokenize", R"({"prompt": "x"})", kAlice);
  EXPECT_EQ(other.status, 200);
  EXPECT_FALSE(other.headers.contains("x-ratelimit-limit-requests"));
  EXPECT_EQ(Call("GET", "/v1/models", "", kBob).status, 200);
  const std::string metrics = Call("GET", "/metrics", "", kBob).body;
  EXPECT_TRUE(absl::StrContains(metrics, "tessera_rate_limited_total{key=\"bob\"} 1\n"));
}

TEST_F(ApiAccessTest, TokensAreChargedWhenARequestEnds) {
  UseKeys("carol key-of-carol 0 60\n");
  const char carol[] = "Authorization: Bearer key-of-carol\r\n";
  // A stream shows the limits in its head.
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest(
      "POST", kCompletions,
      R"({"prompt": ")" + std::string(150, 'x') + R"(", "max_tokens": 10, "stream": true})",
      carol));
  const std::optional<ClientResponse> head = client.ReceiveHead();
  ASSERT_TRUE(head.has_value());
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->headers.at("x-ratelimit-remaining-tokens"), "60");
  while (client.ReceiveEvent()) {
  }
  // 150 and 10 were used, so 100 are owed; a minute pays 60.
  const ClientResponse refused = Call("POST", kCompletions, kPrompt, carol);
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers.at("x-ratelimit-remaining-tokens"), "0");
  const int wait = std::stoi(refused.headers.at("retry-after"));
  EXPECT_GT(wait, 90);
  EXPECT_LE(wait, 101);
}

}  // namespace
}  // namespace tessera::openai
