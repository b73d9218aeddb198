#include "gateway/openai/error.h"

#include "boost/json/parse.hpp"
#include "boost/json/value.hpp"
#include "gateway/openai/request_id.h"
#include "gtest/gtest.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

TEST(ErrorTest, IsOpenAisForm) {
  const http::Response response = ErrorResponse(ParameterError("top_p", "lower it", "code"));
  EXPECT_EQ(response.status, 400);
  const json::value error = json::parse(response.body).at("error");
  EXPECT_EQ(error.at("message"), "lower it");
  EXPECT_EQ(error.at("type"), "invalid_request_error");
  EXPECT_EQ(error.at("param"), "top_p");
  EXPECT_EQ(error.at("code"), "code");
  EXPECT_TRUE(ErrorObject(absl::InternalError("x")).at("error").at("param").is_null());
}

TEST(ErrorTest, StatusesOfWorkersBecomeHttpStatuses) {
  EXPECT_EQ(HttpStatus(absl::InvalidArgumentError("")), 400);
  EXPECT_EQ(HttpStatus(ModelNotFound("a", "b")), 404);
  EXPECT_EQ(HttpStatus(absl::ResourceExhaustedError("")), 429);
  EXPECT_EQ(HttpStatus(absl::UnavailableError("")), 503);
  EXPECT_EQ(HttpStatus(absl::DeadlineExceededError("")), 504);
  EXPECT_EQ(HttpStatus(absl::InternalError("")), 500);
  EXPECT_EQ(HttpStatus(absl::UnknownError("")), 500);
  const http::Response full = ErrorResponse(absl::ResourceExhaustedError("full"));
  ASSERT_EQ(full.headers.size(), 1u);
  EXPECT_EQ(full.headers[0].first, "Retry-After");
}

TEST(ErrorTest, TheFirstParameterStays) {
  const absl::Status status = WithParameter(ParameterError("a", "m"), "b", "c");
  EXPECT_EQ(ErrorObject(status).at("error").at("param"), "a");
  EXPECT_EQ(ErrorObject(status).at("error").at("code"), "c");
}

TEST(ErrorTest, WordsOfOthersAreCutAndMadeUtf8) {
  const std::string long_name(5000, 'x');
  const json::object error = ErrorObject(ModelNotFound(long_name, "m")).at("error").as_object();
  EXPECT_EQ(error.at("message").as_string().size(), 1000u);
  EXPECT_EQ(ErrorObject(absl::InternalError("a\xff"
                                            "b"))
                .at("error")
                .at("message"),
            "a");
  EXPECT_EQ(ErrorObject(absl::InternalError(std::string(999, 'x') + "é")).at("error").at("message"),
            json::string(std::string(999, 'x')));
}

TEST(RequestIdTest, KeepsGoodIdsAndReplacesOthers) {
  EXPECT_EQ(RequestId("abc-1_2.3:4/5"), "abc-1_2.3:4/5");
  EXPECT_EQ(RequestId("").size(), 32u);
  EXPECT_NE(RequestId(""), RequestId(""));
  EXPECT_EQ(RequestId("a b").size(), 32u);
  EXPECT_EQ(RequestId("a\r\nSet-Cookie: x").size(), 32u);
  EXPECT_EQ(RequestId(std::string(129, 'a')).size(), 32u);
}

TEST(ErrorTest, NoAddressReachesAClient) {
  for (const char* words :
       {"failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.7:7601: refused",
        "unix:/run/tessera.sock: gone", "DNS resolution failed for dns:worker:7601"}) {
    const http::Response response = ErrorResponse(absl::UnavailableError(words));
    EXPECT_EQ(response.status, 503);
    for (const char* secret : {"10.0.0.7", "7601", "/run"}) {
      EXPECT_EQ(response.body.find(secret), std::string::npos) << response.body;
    }
  }
  const http::Response own = ErrorResponse(absl::UnavailableError("the worker stops"));
  EXPECT_NE(own.body.find("the worker stops"), std::string::npos);
}

TEST(ErrorTest, AWrongKeyIs401) {
  EXPECT_EQ(ErrorResponse(absl::UnauthenticatedError("which key?")).status, 401);
}

}  // namespace
}  // namespace tessera::openai
