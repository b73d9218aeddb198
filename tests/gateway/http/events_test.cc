// Streams of server-sent events: promises, idle comments, and clients of all kinds.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gateway/http/server.h"
#include "gtest/gtest.h"
#include "tests/gateway/http/server_fixture.h"
#include "tests/gateway/test_client.h"

namespace tessera::http {
namespace {

constexpr std::string_view kComment = ": keep-alive";
constexpr absl::Duration kShort = absl::Milliseconds(5);
constexpr absl::Duration kNeverHere = absl::Hours(1);

// The next event that is no comment.
std::optional<std::string> NextEvent(TestClient& client) {
  std::optional<std::string> event = client.ReceiveEvent();
  while (event == kComment) event = client.ReceiveEvent();
  return event;
}

TEST_F(ServerTest, StreamsInOrderAndKeepsTheConnection) {
  Start({});
  TestClient client(server_->port());
  for (int round = 0; round < 2; ++round) {
    const auto response = client.Call("GET", "/count");
    ASSERT_TRUE(response.has_value());
    EXPECT_EQ(response->headers.at("content-type"), "text/event-stream; charset=utf-8");
    EXPECT_EQ(response->headers.at("cache-control"), "no-cache");
    const std::vector<std::string> events = SplitEvents(response->body);
    ASSERT_EQ(events.size(), 1000u);
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(events[i], absl::StrCat(i));
  }
}

TEST_F(ServerTest, AClientThatLeavesCancelsItsWork) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/hold"));
  ASSERT_TRUE(client.ReceiveHead().has_value());
  EXPECT_EQ(client.ReceiveEvent(), "first");
  client.Close();
  EXPECT_TRUE(handler_.cancelled.WaitForNotificationWithTimeout(absl::Seconds(30)));
}

TEST_F(ServerTest, AClientThatLeavesDuringAWriteCancelsItsWork) {
  Start({.max_buffered_bytes = 64 << 20});
  handler_.script = [&](Reply& reply) {
    reply.StartEvents({});
    // More than sockets hold, so the write is under way until the client reads.
    EXPECT_TRUE(reply.Write(std::string(32 << 20, 'x')));
    handler_.cancelled.WaitForNotification();
    reply.Finish();
  };
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/script"));
  ASSERT_TRUE(client.ReceiveHead().has_value());
  ASSERT_TRUE(client.AwaitBytes(1 << 20));
  client.CloseSending();
  client.ReceiveRest();
  EXPECT_TRUE(handler_.cancelled.WaitForNotificationWithTimeout(absl::Seconds(30)));
}

TEST_F(ServerTest, AnOldClientGetsAStreamWithoutChunks) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(client.Send("GET /count HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
  const auto head = client.ReceiveHead();
  ASSERT_TRUE(head.has_value());
  EXPECT_EQ(head->headers.count("transfer-encoding"), 0u);
  EXPECT_EQ(head->headers.count("connection"), 0u);  // closes, which is the default of 1.0
  std::string expected;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&expected, "data: ", i, "\n\n");
  EXPECT_EQ(client.ReceiveRest(), expected);
}

TEST_F(ServerTest, HeadOfAStreamHasNoEvents) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("HEAD", "/count"));
  EXPECT_EQ(client.Receive(/*head_only=*/true)->status, 200);
  EXPECT_EQ(client.Call("GET", "/next")->body, "GET /next  ");
}

TEST_F(ServerTest, AnIdleStreamGetsComments) {
  Start({.keep_alive_interval = kShort});
  absl::Notification go_on;
  handler_.script = [&](Reply& reply) {
    reply.StartEvents({});
    reply.Write("data: first\n\n");
    go_on.WaitForNotification();
    reply.Write("data: second\n\n");
    reply.Finish();
  };
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/script"));
  ASSERT_TRUE(client.ReceiveHead().has_value());
  EXPECT_EQ(NextEvent(client), "first");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(client.ReceiveEvent(), kComment);
  go_on.Notify();
  EXPECT_EQ(NextEvent(client), "second");
  EXPECT_EQ(NextEvent(client), std::nullopt);
  EXPECT_EQ(client.Call("GET", "/next")->status, 200);
}

TEST_F(ServerTest, NoCommentFallsInsideAnEvent) {
  Start({.keep_alive_interval = kShort});
  absl::Notification never;
  handler_.script = [&](Reply& reply) {
    reply.StartEvents({});
    reply.Write("data: one\n");
    // Time for many comments.
    never.WaitForNotificationWithTimeout(20 * kShort);
    reply.Write("data: event\n\n");
    reply.Finish();
  };
  TestClient client(server_->port());
  const auto response = client.Call("GET", "/script");
  ASSERT_TRUE(response.has_value());
  EXPECT_NE(response->body.find("data: one\ndata: event\n\n"), std::string::npos) << response->body;
}

TEST_F(ServerTest, AStreamThatIsNotReadCancelsItsWork) {
  Start({.max_buffered_bytes = 64 << 20, .write_timeout = absl::Milliseconds(100)});
  handler_.script = [&](Reply& reply) {
    reply.StartEvents({});
    // More than sockets hold.
    EXPECT_TRUE(reply.Write(std::string(32 << 20, 'x')));
    handler_.cancelled.WaitForNotification();
    reply.Finish();
  };
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/script"));
  EXPECT_TRUE(handler_.cancelled.WaitForNotificationWithTimeout(absl::Seconds(30)));
}

TEST_F(ServerTest, APromiseBeginsTheStreamAndEventsFollow) {
  Start({.keep_alive_interval = kShort});
  absl::Notification go_on;
  handler_.script = [&](Reply& reply) {
    reply.PromiseEvents({{"X-Promised", "yes"}}, kShort);
    go_on.WaitForNotification();
    reply.StartEvents({{"X-Late", "yes"}});
    reply.Write("data: first\n\n");
    reply.Finish();
  };
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/script"));
  const auto head = client.ReceiveHead();
  ASSERT_TRUE(head.has_value());
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(head->headers.at("x-promised"), "yes");
  EXPECT_EQ(client.ReceiveEvent(), kComment);
  go_on.Notify();
  EXPECT_EQ(NextEvent(client), "first");
  EXPECT_EQ(NextEvent(client), std::nullopt);
  EXPECT_EQ(client.Call("GET", "/next")->status, 200);
}

TEST_F(ServerTest, AfterAKeptPromiseAResponseIsTheLastEvent) {
  Start({});
  absl::Notification go_on;
  handler_.script = [&](Reply& reply) {
    reply.PromiseEvents({}, absl::ZeroDuration());
    go_on.WaitForNotification();
    reply.Send(Response{.status = 500, .body = "{\"error\":\n1}"});
  };
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/script"));
  EXPECT_EQ(client.ReceiveHead()->status, 200);
  go_on.Notify();
  // A line break in the body must not end the event's data.
  EXPECT_EQ(client.ReceiveEvent(), "{\"error\":\ndata: 1}");
  EXPECT_EQ(client.ReceiveEvent(), "[DONE]");
  EXPECT_EQ(client.ReceiveEvent(), std::nullopt);
  EXPECT_EQ(client.Call("GET", "/next")->status, 200);
}

TEST_F(ServerTest, APromiseThatWasNotNeededLeavesNoTrace) {
  Start({});
  TestClient client(server_->port());
  handler_.script = [&](Reply& reply) {
    reply.PromiseEvents({{"X-Promised", "yes"}}, kNeverHere);
    reply.Send(Response{.status = 400, .body = "no"});
  };
  auto response = client.Call("GET", "/script");
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->status, 400);
  EXPECT_EQ(response->body, "no");
  EXPECT_EQ(response->headers.count("x-promised"), 0u);

  handler_.script = [&](Reply& reply) {
    reply.PromiseEvents({{"X-Promised", "yes"}}, absl::InfiniteDuration());
    reply.StartEvents({{"X-Own", "yes"}});
    reply.Write("data: 1\n\n");
    reply.Finish();
  };
  response = client.Call("GET", "/script");
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->headers.count("x-promised"), 0u);
  EXPECT_EQ(response->headers.at("x-own"), "yes");
  EXPECT_EQ(response->body, "data: 1\n\n");
}

TEST_F(ServerTest, AClientMayLeaveWhileAPromiseIsOpen) {
  Start({});
  handler_.script = [&](Reply& reply) {
    reply.PromiseEvents({}, kNeverHere);
    handler_.cancelled.WaitForNotification();
    reply.Send(Response{.status = 500});
  };
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/script"));
  client.Close();
  EXPECT_TRUE(handler_.cancelled.WaitForNotificationWithTimeout(absl::Seconds(30)));
  ExpectServing();
}

}  // namespace
}  // namespace tessera::http
