// What a client can make the server hold, and for how long.
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gateway/http/server.h"
#include "gtest/gtest.h"
#include "tests/gateway/http/server_fixture.h"
#include "tests/gateway/test_client.h"

namespace tessera::http {
namespace {

constexpr absl::Duration kSoon = absl::Milliseconds(100);
constexpr absl::Duration kLong = absl::Seconds(30);

TEST_F(ServerTest, RefusesALargeBodyAndLetsTheClientReadIt) {
  Start({.max_body_bytes = 1 << 20});
  TestClient client(server_->port());
  const auto response = client.Call("POST", "/big", std::string(9 << 20, 'x'));
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->status, 413);
  EXPECT_EQ(response->headers.at("connection"), "close");
  ExpectServing();
}

TEST_F(ServerTest, RefusesALargeBodyByItsLengthAlone) {
  Start({.max_body_bytes = 1000});
  for (const std::string length : {"1001", "9223372036854775807", "18446744073709551615"}) {
    TestClient client(server_->port());
    client.Send(absl::StrCat("POST /b HTTP/1.1\r\nHost: t\r\nContent-Length: ", length,
                             "\r\nExpect: 100-continue\r\n\r\n"));
    const auto response = client.Receive();
    ASSERT_TRUE(response.has_value()) << length;
    EXPECT_EQ(response->status, 413) << length;
  }
  TestClient client(server_->port());
  client.Send("POST /b HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999999999999999999\r\n\r\n");
  EXPECT_EQ(client.Receive()->status, 400);
  EXPECT_EQ(TestClient(server_->port()).Call("POST", "/b", std::string(1000, 'x'))->status, 200);
}

TEST_F(ServerTest, RefusesALargeChunkedBody) {
  Start({.max_body_bytes = 1000});
  TestClient client(server_->port());
  client.Send("POST /c HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n");
  client.Send(std::string(0x1000, 'x'));
  EXPECT_EQ(client.Receive()->status, 413);
}

TEST_F(ServerTest, RefusesLargeHeadersAndBrokenHttp) {
  Start({.max_header_bytes = 4096});
  TestClient large(server_->port());
  large.Send(absl::StrCat("GET / HTTP/1.1\r\nX-Large: ", std::string(8000, 'x'), "\r\n\r\n"));
  EXPECT_EQ(large.Receive()->status, 431);
  TestClient broken(server_->port());
  broken.Send("this is not HTTP\r\n\r\n");
  EXPECT_EQ(broken.Receive()->status, 400);
  ExpectServing();
}

// A client that sends a byte now and then is no better than one that sends none. The bytes are
// spread over far more than the limit.
void Drip(TestClient& client, const std::string& bytes) {
  for (const char byte : bytes) {
    if (!client.Send(std::string(1, byte))) return;
    absl::SleepFor(absl::Milliseconds(5));
  }
  ADD_FAILURE() << "the server took " << bytes.size() << " slow bytes";
}

TEST_F(ServerTest, DrippedHeadersAreDisconnected) {
  Start({.header_timeout = kSoon, .body_timeout = kLong});
  TestClient client(server_->port());
  Drip(client, absl::StrCat("GET / HTTP/1.1\r\nX-Long: ", std::string(4000, 'x')));
  EXPECT_FALSE(client.Receive().has_value());
  ExpectServing();
}

TEST_F(ServerTest, ADrippedBodyIsDisconnected) {
  Start({.header_timeout = kLong, .body_timeout = kSoon});
  TestClient client(server_->port());
  ASSERT_TRUE(client.Send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9999\r\n\r\n"));
  Drip(client, std::string(4000, 'x'));
  EXPECT_FALSE(client.Receive().has_value());
  ExpectServing();
}

TEST_F(ServerTest, ASilentRequestIsDisconnected) {
  Start({.header_timeout = kSoon, .body_timeout = kSoon});
  TestClient head(server_->port());
  head.Send("GET / HT");
  EXPECT_FALSE(head.Receive().has_value());
  TestClient body(server_->port());
  body.Send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel");
  EXPECT_FALSE(body.Receive().has_value());
  ExpectServing();
}

TEST_F(ServerTest, AnIdleConnectionIsClosed) {
  Start({.idle_timeout = kSoon});
  TestClient silent(server_->port());
  EXPECT_TRUE(silent.ReceiveEnd());
  TestClient client(server_->port());
  ASSERT_TRUE(client.Call("GET", "/x").has_value());
  EXPECT_TRUE(client.ReceiveEnd());
}

TEST_F(ServerTest, AClientThatDoesNotReadLosesItsStream) {
  Start({.max_buffered_bytes = 1 << 20, .write_timeout = 2 * kSoon});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/flood"));
  EXPECT_TRUE(handler_.full.WaitForNotificationWithTimeout(kLong));
  ExpectServing();
}

TEST_F(ServerTest, AClientThatDoesNotReadLosesItsResponse) {
  Start({.write_timeout = 2 * kSoon});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/large"));
  EXPECT_TRUE(handler_.ended.WaitForNotificationWithTimeout(kLong));
  EXPECT_FALSE(client.Receive().has_value());
}

TEST_F(ServerTest, TooManyConnectionsAreTold) {
  Start({.max_connections = 1});
  TestClient first(server_->port());
  ASSERT_TRUE(first.Call("GET", "/x").has_value());
  TestClient second(server_->port());
  const auto response = second.Call("GET", "/x");
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->status, 503);
  EXPECT_EQ(first.Call("GET", "/x")->status, 200);
}

}  // namespace
}  // namespace tessera::http
