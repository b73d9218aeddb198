// An answer that is worked out on a thread that may wait.
#ifndef TESSERA_GATEWAY_OPENAI_TASK_H_
#define TESSERA_GATEWAY_OPENAI_TASK_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/thread_pool.h"
#include "gateway/http/handler.h"
#include "gateway/openai/error.h"

namespace tessera::openai {

class Task final : public http::Work {
 public:
  using Answer = std::function<http::Response()>;

  // Calls `answer` on a thread of the pool and sends what it returns, with X-Request-Id; or 429
  // when the pool's queue is full. The work is for the server.
  static std::unique_ptr<http::Work> Run(ThreadPool& threads, Answer answer, std::string request_id,
                                         http::Reply& reply) {
    auto task = std::make_unique<Task>(std::move(answer), std::move(request_id), &reply);
    Task* const running = task.get();
    if (!threads.TryRun([running] { running->Send(running->answer_()); })) {
      running->Send(ErrorResponse(
          absl::ResourceExhaustedError("too many requests are waiting here: retry later")));
    }
    return task;
  }

  Task(Answer answer, std::string request_id, http::Reply* reply)
      : answer_(std::move(answer)), request_id_(std::move(request_id)), reply_(reply) {}

  // It is short.
  void Cancel() override {}

 private:
  void Send(http::Response response) {
    response.headers.emplace_back("X-Request-Id", request_id_);
    reply_->Send(std::move(response));
  }

  const Answer answer_;
  const std::string request_id_;
  http::Reply* const reply_;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_TASK_H_
