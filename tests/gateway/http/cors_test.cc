#include "gateway/http/cors.h"

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "gateway/http/server.h"
#include "gtest/gtest.h"
#include "tests/gateway/http/server_fixture.h"
#include "tests/gateway/test_client.h"

namespace tessera::http {
namespace {

constexpr char kPage[] = "https://chat.example.org";

std::string Asking(std::string_view origin, std::string_view headers = {}) {
  std::string lines("Origin: ");
  lines.append(origin).append("\r\nAccess-Control-Request-Method: POST\r\n");
  if (!headers.empty()) {
    lines.append("Access-Control-Request-Headers: ").append(headers).append("\r\n");
  }
  return lines;
}

// A header's value, or what no header can be.
std::string Get(const ClientResponse& response, const std::string& name) {
  const auto found = response.headers.find(name);
  return found == response.headers.end() ? "(none)" : found->second;
}

TEST_F(ServerTest, WithoutOriginsThereIsNoCors) {
  Start({});
  TestClient client(server_->port());
  const auto response = client.Call("OPTIONS", "/x", "", Asking(kPage));
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->body, "OPTIONS /x  ");
  EXPECT_EQ(Get(*response, "access-control-allow-origin"), "(none)");
  EXPECT_EQ(Get(*response, "vary"), "(none)");
}

TEST_F(ServerTest, AnswersPreflightsItself) {
  Start({.cors_origins = {"http://localhost:3000", kPage}});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("OPTIONS", "/v1/chunks", "",
                                 Asking(kPage, "authorization,x-stainless-os")));
  const auto response = client.ReceiveHead();
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->status, 204);
  EXPECT_EQ(Get(*response, "content-length"), "(none)");
  EXPECT_EQ(Get(*response, "access-control-allow-origin"), kPage);
  EXPECT_EQ(Get(*response, "access-control-allow-methods"), "GET, POST, DELETE, OPTIONS");
  EXPECT_EQ(Get(*response, "access-control-allow-headers"), "authorization,x-stainless-os");
  EXPECT_EQ(Get(*response, "access-control-max-age"), "7200");
  EXPECT_EQ(Get(*response, "vary"), "Origin");
  EXPECT_EQ(handler_.last().method, "");
  // The connection goes on.
  EXPECT_EQ(client.Call("GET", "/next")->body, "GET /next  ");
}

TEST_F(ServerTest, NamesItsOwnHeadersWhenWhatIsAskedIsOdd) {
  Start({.cors_origins = {kPage}});
  TestClient client(server_->port());
  for (const std::string& asked :
       {std::string("a: b"), std::string("\"x\""), std::string(2000, 'x'), std::string()}) {
    const auto response = client.Call("OPTIONS", "/x", "", Asking(kPage, asked));
    ASSERT_TRUE(response.has_value());
    EXPECT_EQ(Get(*response, "access-control-allow-headers"),
              "authorization, content-type, x-request-id");
  }
}

TEST_F(ServerTest, OtherOriginsAreNotAllowed) {
  Start({.cors_origins = {kPage}});
  TestClient client(server_->port());
  for (const std::string origin : {"https://evil.example.org", "https://chat.example.org.evil.org",
                                   "http://chat.example.org", "null", "*"}) {
    const auto preflight = client.Call("OPTIONS", "/x", "", Asking(origin));
    ASSERT_TRUE(preflight.has_value());
    EXPECT_EQ(Get(*preflight, "access-control-allow-origin"), "(none)") << origin;
    EXPECT_EQ(Get(*preflight, "access-control-allow-methods"), "(none)") << origin;
    const auto response = client.Call("GET", "/x", "", absl::StrCat("Origin: ", origin, "\r\n"));
    ASSERT_TRUE(response.has_value());
    EXPECT_EQ(Get(*response, "access-control-allow-origin"), "(none)") << origin;
    EXPECT_EQ(Get(*response, "vary"), "Origin") << origin;
  }
}

TEST_F(ServerTest, EveryResponseCarriesTheHeaders) {
  Start({.max_body_bytes = 10, .cors_origins = {kPage}});
  const std::string origin = absl::StrCat("Origin: ", kPage, "\r\n");
  for (const std::string path : {"/echo", "/count", "/large"}) {
    TestClient client(server_->port());
    ASSERT_TRUE(client.SendRequest("GET", path, "", origin));
    const auto head = client.ReceiveHead();
    ASSERT_TRUE(head.has_value());
    EXPECT_EQ(Get(*head, "access-control-allow-origin"), kPage) << path;
    EXPECT_EQ(Get(*head, "access-control-expose-headers"), "X-Request-Id, Retry-After") << path;
    EXPECT_EQ(Get(*head, "vary"), "Origin") << path;
  }
  TestClient client(server_->port());
  const auto refused = client.Call("POST", "/x", "more than ten bytes", origin);
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->status, 413);
  EXPECT_EQ(Get(*refused, "access-control-allow-origin"), kPage);
}

TEST_F(ServerTest, AnyOriginIsAStar) {
  Start({.cors_origins = {"*"}});
  TestClient client(server_->port());
  const auto preflight = client.Call("OPTIONS", "/x", "", Asking("null"));
  ASSERT_TRUE(preflight.has_value());
  EXPECT_EQ(preflight->status, 204);
  EXPECT_EQ(Get(*preflight, "access-control-allow-origin"), "*");
  EXPECT_EQ(Get(*preflight, "vary"), "(none)");
  // Even when the request could not be read.
  TestClient broken(server_->port());
  broken.Send("this is not HTTP\r\n\r\n");
  EXPECT_EQ(Get(*broken.Receive(), "access-control-allow-origin"), "*");
}

TEST_F(ServerTest, OptionsOfOthersGoToTheHandler) {
  Start({.cors_origins = {kPage}});
  TestClient client(server_->port());
  EXPECT_EQ(client.Call("OPTIONS", "/x")->body, "OPTIONS /x  ");
  EXPECT_EQ(client.Call("OPTIONS", "/x", "", absl::StrCat("Origin: ", kPage, "\r\n"))->body,
            "OPTIONS /x  ");
}

TEST(CorsTest, NamesWhatIsNoOrigin) {
  EXPECT_TRUE(Cors::Check({"*", "null", "http://localhost:3000", "app://tessera"}).ok());
  for (const std::string bad : {"", "localhost", "https://", "://x", "https://a.org/",
                                "https://*.a.org", "https://a.org,https://b.org"}) {
    const absl::Status status = Cors::Check({"*", bad});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_NE(status.message().find(absl::StrCat("\"", bad, "\" is not an origin")),
              absl::string_view::npos);
  }
}

TEST_F(ServerTest, ABadOriginStopsTheStart) {
  const auto server =
      Server::Listen({.listen = "127.0.0.1:0", .cors_origins = {"https://a.org/"}}, &handler_);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera::http
