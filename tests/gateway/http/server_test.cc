#include "gateway/http/server.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/gateway/http/server_fixture.h"
#include "tests/gateway/test_client.h"

namespace tessera::http {
namespace {

TEST_F(ServerTest, KeepsAConnectionForManyRequests) {
  Start({});
  TestClient client(server_->port());
  for (int i = 0; i < 3; ++i) {
    const auto response =
        client.Call("POST", "/a%20b?c=d", absl::StrCat("body", i), "X-Test: t\r\n");
    ASSERT_TRUE(response.has_value());
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->body, absl::StrCat("POST /a b t body", i));
  }
  EXPECT_EQ(server_->connections(), 1u);
}

TEST_F(ServerTest, ClosesWhenAsked) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(client.Call("GET", "/x", "", "Connection: close\r\n").has_value());
  EXPECT_TRUE(client.ReceiveEnd());
}

TEST_F(ServerTest, AnswersPipelinedRequestsInOrder) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("POST", "/1", "one"));
  ASSERT_TRUE(client.SendRequest("POST", "/2", "two"));
  EXPECT_EQ(client.Receive()->body, "POST /1  one");
  EXPECT_EQ(client.Receive()->body, "POST /2  two");
}

TEST_F(ServerTest, ReadsAChunkedBody) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(
      client.Send("POST /c HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
                  "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"));
  EXPECT_EQ(client.Receive()->body, "POST /c  hello world");
}

TEST_F(ServerTest, AnswersExpectContinue) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(
      client.Send("POST /e HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n"
                  "Expect: 100-continue\r\n\r\n"));
  EXPECT_EQ(client.ReceiveHead()->status, 100);
  ASSERT_TRUE(client.Send("ok"));
  EXPECT_EQ(client.Receive()->body, "POST /e  ok");
}

TEST_F(ServerTest, AnOldClientIsNotToldToContinue) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(
      client.Send("POST /e HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nok"));
  const auto response = client.Receive();
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->body, "POST /e  ok");
  EXPECT_TRUE(client.ReceiveEnd());
}

TEST_F(ServerTest, AnOldClientMayKeepItsConnection) {
  Start({});
  TestClient client(server_->port());
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(client.Send("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    const auto response = client.Receive();
    ASSERT_TRUE(response.has_value());
    EXPECT_EQ(response->headers.at("connection"), "keep-alive");
  }
}

TEST_F(ServerTest, DeletesWithAndWithoutABody) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(client.Send("DELETE /v1/chunks/a HTTP/1.1\r\nHost: t\r\n\r\n"));
  EXPECT_EQ(client.Receive()->body, "DELETE /v1/chunks/a  ");
  EXPECT_EQ(client.Call("DELETE", "/v1/chunks/a", "{}")->body, "DELETE /v1/chunks/a  {}");
}

TEST_F(ServerTest, TellsTheQueryAndTheClientsAddress) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(client.Call("GET", "/v1/chunks?limit=20&after=a%2Fb&all").has_value());
  const Request request = handler_.last();
  EXPECT_EQ(request.path, "/v1/chunks");
  EXPECT_EQ(request.Query("limit"), "20");
  EXPECT_EQ(request.Query("after"), "a/b");
  EXPECT_EQ(request.Query("all"), "");
  EXPECT_EQ(request.Query("other"), std::nullopt);
  EXPECT_EQ(request.remote, "127.0.0.1");
}

TEST_F(ServerTest, HeadHasNoBody) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("HEAD", "/h"));
  const auto response = client.Receive(/*head_only=*/true);
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->headers.at("content-length"), "8");
  EXPECT_EQ(client.Call("GET", "/next")->body, "GET /next  ");
}

TEST_F(ServerTest, StopCancelsWhatRuns) {
  Start({});
  TestClient streaming(server_->port());
  ASSERT_TRUE(streaming.SendRequest("GET", "/hold"));
  ASSERT_TRUE(streaming.ReceiveHead().has_value());
  TestClient idle(server_->port());
  ASSERT_TRUE(idle.Call("GET", "/x").has_value());
  server_->Stop(absl::Milliseconds(50));
  EXPECT_TRUE(handler_.cancelled.HasBeenNotified());
  EXPECT_TRUE(idle.ReceiveEnd());
  EXPECT_EQ(server_->connections(), 0u);
}

TEST_F(ServerTest, APortInUseIsSaidInOneLine) {
  Start({});
  const auto second =
      Server::Listen({.listen = absl::StrCat("127.0.0.1:", server_->port())}, &handler_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().message(), absl::StrCat("cannot listen on 127.0.0.1:", server_->port(),
                                                    ": address already in use"));
  EXPECT_FALSE(Server::Listen({.listen = "nonsense"}, &handler_).ok());
  EXPECT_FALSE(Server::Listen({.listen = "127.0.0.1:99999"}, &handler_).ok());
}

}  // namespace
}  // namespace tessera::http
