// The whole gateway but its main: HTTP server, API, tokenizer and router, against a stub worker.
#ifndef TESSERA_TESTS_GATEWAY_OPENAI_API_FIXTURE_H_
#define TESSERA_TESTS_GATEWAY_OPENAI_API_FIXTURE_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "boost/json/parse.hpp"
#include "boost/json/value.hpp"
#include "gateway/http/server.h"
#include "gateway/openai/api.h"
#include "gateway/openai/prepare.h"
#include "gateway/router/worker_client.h"
#include "gateway/router/worker_pool.h"
#include "gateway/text/model_text.h"
#include "gtest/gtest.h"
#include "tests/gateway/stub_worker.h"
#include "tests/gateway/test_client.h"
#include "tests/gateway/test_model.h"

namespace tessera::openai {

inline constexpr uint32_t kMaxLen = 200;
inline constexpr char kCompletions[] = "/v1/completions";
inline constexpr char kChat[] = "/v1/chat/completions";

class ApiFixture : public testing::Test {
 protected:
  void SetUp() override {
    WriteTestModel(testing::TempDir());
    absl::StatusOr<ModelText> text = LoadModelText(testing::TempDir());
    ASSERT_TRUE(text.ok()) << text.status();
    text_ = *std::move(text);
    preparer_ = std::make_unique<Preparer>(&text_, SegmenterOptions());
    StartWorker();
    StartGateway();
    AwaitReady(true);
  }

  void StartWorker(int port = 0) {
    worker_ = StubWorker::Start("stub", kMaxLen, kTestVocabSize, kTestImEnd, port);
  }

  void StartGateway(ApiOptions options = {}) {
    server_.reset();
    api_.reset();
    WorkerPoolOptions pool_options;
    pool_options.poll_up = absl::Milliseconds(50);
    pool_options.poll_down = absl::Milliseconds(20);
    std::vector<std::unique_ptr<WorkerClient>> clients;
    clients.push_back(ConnectWorker(worker_->address()));
    pool_ = std::make_unique<WorkerPool>(std::move(clients), pool_options);
    pool_->Start();
    options.completion.tokenizer = text_.tokenizer.get();
    options.completion.preparer = preparer_.get();
    options.completion.workers = pool_.get();
    options.text = &text_;
    api_ = std::make_unique<Api>(options);
    auto server = http::Server::Listen({.listen = "127.0.0.1:0"}, api_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  // Polling has no event to wait for from outside; so ask, for 30 seconds at most.
  void AwaitReady(bool ready) {
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (pool_->ready() != ready && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
    ASSERT_EQ(pool_->ready(), ready);
  }

  ClientResponse Call(std::string_view method, std::string_view path, std::string_view body = {},
                      std::string_view header_lines = {}) {
    TestClient client(server_->port());
    std::optional<ClientResponse> response = client.Call(method, path, body, header_lines);
    EXPECT_TRUE(response.has_value()) << "no answer to " << body;
    return response.value_or(ClientResponse());
  }

  boost::json::value Complete(const std::string& body, std::string_view path = kCompletions) {
    const ClientResponse response = Call("POST", path, body);
    EXPECT_EQ(response.status, 200) << response.body;
    return boost::json::parse(response.body);
  }

  // The `error` object of a response with that status.
  boost::json::object Refused(int status, const std::string& body,
                              std::string_view path = kCompletions) {
    const ClientResponse response = Call("POST", path, body);
    EXPECT_EQ(response.status, status) << body.substr(0, 200) << ": " << response.body;
    boost::system::error_code error;
    const boost::json::value value = boost::json::parse(response.body, error);
    EXPECT_FALSE(error) << response.body;
    const boost::json::object object =
        error ? boost::json::object() : value.at("error").as_object();
    for (const char* field : {"message", "type", "param", "code"}) {
      EXPECT_TRUE(object.contains(field)) << field;
    }
    return object;
  }

  std::unique_ptr<StubWorker> worker_;
  ModelText text_;
  std::unique_ptr<Preparer> preparer_;
  std::unique_ptr<WorkerPool> pool_;
  std::unique_ptr<Api> api_;
  std::unique_ptr<http::Server> server_;
};

}  // namespace tessera::openai

#endif  // TESSERA_TESTS_GATEWAY_OPENAI_API_FIXTURE_H_
