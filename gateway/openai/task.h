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

  // Calls `answer` on a thread of the pool and sends what it returns; or 429 when the pool's queue
  // is full. The work is for the server.
  static std::unique_ptr<http::Work> Run(ThreadPool& threads, Answer answer, http::Reply& reply) {
    auto task = std::make_unique<Task>(std::move(answer), &reply);
    Task* const running = task.get();
    if (!threads.TryRun([running] { running->reply_->Send(running->answer_()); })) {
      reply.Send(ErrorResponse(
          absl::ResourceExhaustedError("too many requests are waiting here: retry later")));
    }
    return task;
  }

  Task(Answer answer, http::Reply* reply) : answer_(std::move(answer)), reply_(reply) {}

  // It is short.
  void Cancel() override {}

 private:
  const Answer answer_;
  http::Reply* const reply_;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_TASK_H_
