// A server on a free port with a handler that answers as its routes say.
#ifndef TESSERA_TESTS_GATEWAY_HTTP_SERVER_FIXTURE_H_
#define TESSERA_TESTS_GATEWAY_HTTP_SERVER_FIXTURE_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gateway/http/server.h"
#include "gtest/gtest.h"
#include "tests/gateway/test_client.h"

namespace tessera::http {

// Answers from a thread of its own.
class ThreadWork final : public Work {
 public:
  // `cancelled` and `ended` are notified when the client has left, and when the work is destroyed.
  ThreadWork(absl::Notification* cancelled, absl::Notification* ended, std::function<void()> answer)
      : cancelled_(cancelled), ended_(ended), thread_(std::move(answer)) {}
  ~ThreadWork() override {
    thread_.join();
    if (ended_ != nullptr) ended_->Notify();
  }

  void Cancel() override {
    if (cancelled_ != nullptr) cancelled_->Notify();
  }

 private:
  absl::Notification* const cancelled_;
  absl::Notification* const ended_;
  std::thread thread_;
};

// Routes: /count streams 1000 events; /hold one, and then waits for the client to leave; /flood
// writes until the buffer is full; /large sends 64 MiB at once; /script does what `script` says.
// Others are echoed: method, path, header x-test and body.
class TestHandler final : public Handler {
 public:
  std::unique_ptr<Work> Handle(Request request, Reply& reply) override {
    {
      absl::MutexLock lock(&mutex_);
      last_ = request;
    }
    if (request.path == "/count") return Start(nullptr, nullptr, [&reply] { Count(reply); });
    if (request.path == "/hold") return Start(&cancelled, nullptr, [this, &reply] { Hold(reply); });
    if (request.path == "/flood") return Start(nullptr, nullptr, [this, &reply] { Flood(reply); });
    if (request.path == "/script") {
      return Start(&cancelled, nullptr, [script = script, &reply] { script(reply); });
    }
    if (request.path == "/large") {
      return Start(nullptr, &ended,
                   [&reply] { reply.Send(Response{.body = std::string(64 << 20, 'x')}); });
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

  Request last() const {
    absl::MutexLock lock(&mutex_);
    return last_;
  }

  std::function<void(Reply&)> script;
  absl::Notification cancelled;  // of /hold and /script
  absl::Notification full;       // of /flood
  absl::Notification ended;      // of /large

 private:
  static std::unique_ptr<Work> Start(absl::Notification* cancelled, absl::Notification* ended,
                                     std::function<void()> answer) {
    return std::make_unique<ThreadWork>(cancelled, ended, std::move(answer));
  }

  static void Count(Reply& reply) {
    reply.StartEvents({});
    for (int i = 0; i < 1000; ++i) reply.Write(absl::StrCat("data: ", i, "\n\n"));
    reply.Finish();
  }

  void Hold(Reply& reply) {
    reply.StartEvents({});
    reply.Write("data: first\n\n");
    cancelled.WaitForNotification();
    reply.Finish();
  }

  void Flood(Reply& reply) {
    reply.StartEvents({});
    while (reply.Write(std::string(64 << 10, 'x'))) {
    }
    full.Notify();
    reply.Finish();
  }

  mutable absl::Mutex mutex_;
  Request last_ ABSL_GUARDED_BY(mutex_);
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

}  // namespace tessera::http

#endif  // TESSERA_TESTS_GATEWAY_HTTP_SERVER_FIXTURE_H_
