#include "gateway/http/server.h"

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/gateway/test_client.h"

namespace tessera::http {
namespace {

// Streams from a thread of its own, until it is done or cancelled.
class StreamWork final : public Work {
 public:
  explicit StreamWork(Reply* reply) : reply_(reply) {}
  ~StreamWork() override { thread_.join(); }

  // Sends `count` events and ends.
  void Count(int count) {
    thread_ = std::thread([this, count] {
      reply_->StartEvents({});
      for (int i = 0; i < count; ++i) reply_->Write(absl::StrCat("data: ", i, "\n\n"));
      reply_->Finish();
    });
  }

  // Sends one event, and then waits for Cancel.
  void Hold(absl::Notification* cancelled) {
    cancelled_ = cancelled;
    thread_ = std::thread([this] {
      reply_->StartEvents({});
      reply_->Write("data: first\n\n");
      cancelled_->WaitForNotification();
      reply_->Finish();
    });
  }

  // Writes until the buffer is full.
  void Flood(absl::Notification* full) {
    thread_ = std::thread([this, full] {
      reply_->StartEvents({});
      while (reply_->Write(std::string(64 << 10, 'x'))) {
      }
      full->Notify();
      reply_->Finish();
    });
  }

  void Cancel() override {
    if (cancelled_ != nullptr) cancelled_->Notify();
  }

 private:
  Reply* const reply_;
  absl::Notification* cancelled_ = nullptr;
  std::thread thread_;
};

class TestHandler final : public Handler {
 public:
  std::unique_ptr<Work> Handle(Request request, Reply& reply) override {
    if (request.path == "/count" || request.path == "/hold" || request.path == "/flood") {
      auto work = std::make_unique<StreamWork>(&reply);
      if (request.path == "/count") work->Count(1000);
      if (request.path == "/hold") work->Hold(&cancelled);
      if (request.path == "/flood") work->Flood(&full);
      return work;
    }
    Response response;
    response.content_type = "text/plain";
    response.body = absl::StrCat(request.method, " ", request.path, " ",
                                 std::string(request.Header("x-test")), " ", request.body);
    reply.Send(std::move(response));
    return nullptr;
  }

  Response Refuse(int status, std::string_view message) override {
    return Response{.status = status, .content_type = "text/plain", .body = std::string(message)};
  }

  absl::Notification cancelled;
  absl::Notification full;
};

class ServerTest : public testing::Test {
 protected:
  void Start(ServerOptions options) {
    options.listen = "127.0.0.1:0";
    absl::StatusOr<std::unique_ptr<Server>> server = Server::Listen(options, &handler_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  void ExpectServing() {
    TestClient client(server_->port());
    const auto response = client.Call("GET", "/alive");
    ASSERT_TRUE(response.has_value());
    EXPECT_EQ(response->status, 200);
  }

  TestHandler handler_;
  std::unique_ptr<Server> server_;
};

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

TEST_F(ServerTest, HeadHasNoBody) {
  Start({});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("HEAD", "/h"));
  const auto response = client.Receive(/*head_only=*/true);
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->headers.at("content-length"), "8");
  EXPECT_EQ(client.Call("GET", "/next")->body, "GET /next  ");
}

TEST_F(ServerTest, RefusesALargeBodyAndLetsTheClientReadIt) {
  Start({.max_body_bytes = 1 << 20});
  TestClient client(server_->port());
  const auto response = client.Call("POST", "/big", std::string(9 << 20, 'x'));
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->status, 413);
  EXPECT_EQ(response->headers.at("connection"), "close");
  ExpectServing();
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

TEST_F(ServerTest, AClientThatDoesNotReadLosesItsStream) {
  Start({.max_buffered_bytes = 1 << 20, .write_timeout = absl::Milliseconds(200)});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("GET", "/flood"));
  EXPECT_TRUE(handler_.full.WaitForNotificationWithTimeout(absl::Seconds(30)));
  ExpectServing();
}

TEST_F(ServerTest, ASlowRequestIsDisconnected) {
  Start({.header_timeout = absl::Milliseconds(100), .body_timeout = absl::Milliseconds(100)});
  TestClient head(server_->port());
  head.Send("GET / HT");
  EXPECT_FALSE(head.Receive().has_value());
  TestClient body(server_->port());
  body.Send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nxx");
  EXPECT_FALSE(body.Receive().has_value());
  ExpectServing();
}

TEST_F(ServerTest, AnIdleConnectionIsClosed) {
  Start({.idle_timeout = absl::Milliseconds(100)});
  TestClient client(server_->port());
  ASSERT_TRUE(client.Call("GET", "/x").has_value());
  EXPECT_TRUE(client.ReceiveEnd());
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
