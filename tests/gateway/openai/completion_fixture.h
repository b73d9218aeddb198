// Completions over HTTP, tokenizer and router against a stub worker; no other part of the API.
#ifndef TESSERA_TESTS_GATEWAY_OPENAI_COMPLETION_FIXTURE_H_
#define TESSERA_TESTS_GATEWAY_OPENAI_COMPLETION_FIXTURE_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/bounded_queue.h"
#include "boost/json/parse.hpp"
#include "boost/json/value.hpp"
#include "gateway/http/server.h"
#include "gateway/openai/completion.h"
#include "gateway/openai/prepare.h"
#include "gateway/openai/request_id.h"
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

// Every request is a completion; one thread prepares them.
class CompletionHandler final : public http::Handler {
 public:
  explicit CompletionHandler(const CompletionContext& context)
      : context_(context), thread_([this] {
          while (const std::optional<Completion*> completion = queue_.Pop()) (*completion)->Run();
        }) {}

  ~CompletionHandler() override {
    queue_.Close();
    thread_.join();
  }

  std::unique_ptr<http::Work> Handle(http::Request request, http::Reply& reply) override {
    const Endpoint endpoint = request.path == kChat ? Endpoint::kChat : Endpoint::kCompletions;
    std::string id = RequestId(request.Header("x-request-id"));
    auto completion = std::make_unique<Completion>(context_, endpoint, std::move(request),
                                                   std::move(id), /*caller=*/7, &reply);
    EXPECT_TRUE(queue_.TryPush(completion.get()));
    return completion;
  }

  http::Response Refuse(int status, std::string_view message) override {
    http::Response response;
    response.status = status;
    response.body = message;
    return response;
  }

 private:
  const CompletionContext context_;
  BoundedQueue<Completion*> queue_{4096};
  std::thread thread_;
};

class CompletionFixture : public testing::Test {
 protected:
  void SetUp() override {
    WriteTestModel(testing::TempDir());
    absl::StatusOr<ModelText> text = LoadModelText(testing::TempDir());
    ASSERT_TRUE(text.ok()) << text.status();
    text_ = *std::move(text);
    preparer_ = std::make_unique<Preparer>(&text_, SegmenterOptions());
    worker_ = StubWorker::Start("stub", kMaxLen, kTestVocabSize, kTestImEnd);
    StartGateway();
  }

  // With pool_options_ and context_ as they are now.
  void StartGateway() {
    server_.reset();
    handler_.reset();
    pool_options_.poll_up = absl::Milliseconds(50);
    pool_options_.poll_down = absl::Milliseconds(20);
    std::vector<std::unique_ptr<WorkerClient>> clients;
    clients.push_back(ConnectWorker(worker_->address()));
    pool_ = std::make_unique<WorkerPool>(std::move(clients), pool_options_);
    pool_->Start();
    pool_->AwaitFirstAnswers(absl::Seconds(30));
    ASSERT_TRUE(pool_->ready());
    context_.tokenizer = text_.tokenizer.get();
    context_.preparer = preparer_.get();
    context_.workers = pool_.get();
    handler_ = std::make_unique<CompletionHandler>(context_);
    http::ServerOptions options;
    options.listen = "127.0.0.1:0";
    auto server = http::Server::Listen(options, handler_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  ClientResponse Post(std::string_view path, std::string_view body,
                      std::string_view header_lines = {}) {
    TestClient client(server_->port());
    std::optional<ClientResponse> response = client.Call("POST", path, body, header_lines);
    EXPECT_TRUE(response.has_value()) << "no answer to " << body;
    return response.value_or(ClientResponse());
  }

  boost::json::value Complete(const std::string& body, std::string_view path = kCompletions) {
    const ClientResponse response = Post(path, body);
    EXPECT_EQ(response.status, 200) << response.body;
    boost::system::error_code error;
    return boost::json::parse(response.body, error);
  }

  // The `error` object of a response with that status.
  boost::json::object Refused(int status, const std::string& body,
                              std::string_view path = kCompletions) {
    const ClientResponse response = Post(path, body);
    EXPECT_EQ(response.status, status) << body.substr(0, 200) << ": " << response.body;
    boost::system::error_code error;
    const boost::json::value value = boost::json::parse(response.body, error);
    EXPECT_FALSE(error) << response.body;
    return error ? boost::json::object() : value.at("error").as_object();
  }

  WorkerPoolOptions pool_options_;
  CompletionContext context_;
  std::unique_ptr<StubWorker> worker_;
  ModelText text_;
  std::unique_ptr<Preparer> preparer_;
  std::unique_ptr<WorkerPool> pool_;
  std::unique_ptr<CompletionHandler> handler_;
  std::unique_ptr<http::Server> server_;
};

}  // namespace tessera::openai

#endif  // TESSERA_TESTS_GATEWAY_OPENAI_COMPLETION_FIXTURE_H_
