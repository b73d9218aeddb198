// The OpenAI-compatible API: routes of the HTTP server.
#ifndef TESSERA_GATEWAY_OPENAI_API_H_
#define TESSERA_GATEWAY_OPENAI_API_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"
#include "gateway/http/handler.h"
#include "gateway/openai/completion.h"
#include "gateway/openai/request.h"

namespace tessera::openai {

struct ApiOptions {
  CompletionContext completion;
  // Threads that parse and tokenize, apart from those of the network: a long prompt holds up no
  // stream. More requests than `max_queued` waiting for them are answered with 429.
  int prepare_threads = 1;
  size_t max_queued = 256;
};

// Thread-safe. Must outlive the server that it answers for; destroyed only after that has stopped.
class Api final : public http::Handler {
 public:
  explicit Api(const ApiOptions& options);
  ~Api() override;

  std::unique_ptr<http::Work> Handle(http::Request request, http::Reply& reply) override;
  http::Response Refuse(int status, std::string_view message) override;

 private:
  std::unique_ptr<http::Work> Complete(Endpoint endpoint, http::Request request,
                                       std::string request_id, http::Reply& reply);
  http::Response Get(std::string_view path) const;
  http::Response Health() const;
  http::Response ListModels() const;
  http::Response GetModel(std::string_view id) const;

  const ApiOptions options_;
  const int64_t started_;  // seconds since 1970
  BoundedQueue<Completion*> queue_;
  std::vector<std::thread> threads_;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_API_H_
