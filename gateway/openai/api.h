// The OpenAI-compatible API: routes of the HTTP server.
#ifndef TESSERA_GATEWAY_OPENAI_API_H_
#define TESSERA_GATEWAY_OPENAI_API_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/metrics.h"
#include "base/thread_pool.h"
#include "gateway/access/access_control.h"
#include "gateway/chunks/chunk_api.h"
#include "gateway/http/handler.h"
#include "gateway/live/live_page.h"
#include "gateway/openai/cluster.h"
#include "gateway/openai/completion.h"
#include "gateway/openai/metrics.h"
#include "gateway/openai/request.h"
#include "gateway/text/model_text.h"
#include "gateway/text/segmenter.h"

namespace tessera::openai {

struct ApiOptions {
  // `chunk_texts` and `observer` are the Api's to set.
  CompletionContext completion;
  // The model's text, and how prompts are cut: what `completion.preparer` was made with. Required
  // by /tokenize and chunks.
  const ModelText* text = nullptr;
  SegmenterOptions segmenter;
  // Threads that parse and tokenize, apart from those of the network: a long prompt holds up no
  // stream. More requests than `max_queued` waiting for them are answered with 429.
  int prepare_threads = 1;
  size_t max_queued = 256;
  // Who may use it; without keys everybody.
  AccessOptions access;
  // `text`, `segmenter` and `workers` are the Api's to set.
  ChunkApiOptions chunks;
  // What "/" shows without an API key; null: nothing. Must outlive the Api.
  const LivePage* live_page = nullptr;
  // Metrics under vLLM's names too.
  bool vllm_metric_names = false;
};

// Thread-safe. Must outlive the server that it answers for; destroyed only after that has stopped.
class Api final : public http::Handler {
 public:
  explicit Api(const ApiOptions& options);
  ~Api() override;

  std::unique_ptr<http::Work> Handle(http::Request request, http::Reply& reply) override;
  http::Response Refuse(int status, std::string_view message) override;

  // What GET /metrics shows, for others to add to before the server starts.
  Metrics& metrics() { return *metrics_; }

 private:
  // Passes on what completions report: to the metrics, and to the callers' budgets.
  class Observer final : public CompletionObserver {
   public:
    explicit Observer(Api* api) : api_(*api) {}
    void OnAccepted() override { api_.api_metrics_.OnAccepted(); }
    void OnNextToken(Endpoint endpoint, absl::Duration gap) override {
      api_.api_metrics_.OnNextToken(endpoint, gap);
    }
    void OnFinished(const CompletionReport& report) override;

   private:
    Api& api_;
  };

  // After access was granted. As http::Handler::Handle, through the exchange's reply.
  std::unique_ptr<http::Work> Route(http::Request request, std::string request_id, size_t caller,
                                    http::Reply& reply);
  std::unique_ptr<http::Work> Complete(Endpoint endpoint, http::Request request,
                                       std::string request_id, size_t caller, http::Reply& reply);
  std::unique_ptr<http::Work> RunTokenizer(http::Request request, http::Reply& reply);
  http::Response Get(std::string_view path);
  bool IsLivePage(std::string_view path) const {
    return options_.live_page != nullptr && options_.live_page->Has(path);
  }
  http::Response Health() const;
  http::Response ListModels() const;
  http::Response GetModel(std::string_view id) const;
  MetricSource OwnSamples() const;
  void Charge(size_t caller, uint64_t tokens);

  const ApiOptions options_;
  const int64_t started_;  // seconds since 1970
  AccessControl access_;
  std::atomic<size_t> waiting_{0};  // requests in the queue of `threads_`
  const std::unique_ptr<Metrics> metrics_;
  ApiMetrics api_metrics_;
  Cluster cluster_;
  Observer observer_;
  ChunkApi chunks_;
  const CompletionContext completion_;
  ThreadPool threads_;  // last: what it runs uses all of the above
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_API_H_
