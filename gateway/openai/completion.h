// One completion request, from its body to its last byte.
#ifndef TESSERA_GATEWAY_OPENAI_COMPLETION_H_
#define TESSERA_GATEWAY_OPENAI_COMPLETION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/http/handler.h"
#include "gateway/openai/answer.h"
#include "gateway/openai/chunk_texts.h"
#include "gateway/openai/observer.h"
#include "gateway/openai/prepare.h"
#include "gateway/openai/prompt_answers.h"
#include "gateway/openai/request.h"
#include "gateway/openai/response.h"
#include "gateway/router/worker_pool.h"
#include "gateway/text/tokenizer.h"

namespace tessera::openai {

// What all completions share. Everything outlives them.
struct CompletionContext {
  const Tokenizer* tokenizer = nullptr;
  const Preparer* preparer = nullptr;
  WorkerPool* workers = nullptr;
  // Looks up chunks that prompts name; null: there are none.
  ChunkTexts* chunk_texts = nullptr;
  // Hears of every request; null: nobody does.
  CompletionObserver* observer = nullptr;
  // From the request's arrival to its last token.
  absl::Duration timeout = absl::Minutes(10);
  // A stream whose first event takes longer is begun without it, so that nobody between gives up.
  absl::Duration first_event_within = absl::Seconds(15);
  // Prompts of one request; each is a call of its own.
  size_t max_prompts = 64;
};

// A call to a worker for every prompt, all at a time; their events come on threads of the RPC
// library, Run on a thread of the API, Cancel from the network. One lock is held by whoever handles
// one of these, so the reply gets one call at a time. The reply's last call comes after every
// call's last event, and after the lock was let go.
class Completion final : public http::Work {
 public:
  // `context` and `reply` must outlive it. `caller` is the index of the API key that asked.
  Completion(const CompletionContext& context, Endpoint endpoint, http::Request request,
             std::string request_id, size_t caller, http::Reply* reply);
  ~Completion() override;

  // Parses, tokenizes, and starts the calls; or answers with an error. Call once. The object may be
  // gone when this returns.
  void Run();

  void Cancel() override;

  // Answers with an error instead of running. The object may be gone when this returns.
  void Refuse(const absl::Status& status);

 private:
  class PromptCall;
  // An answer that is sent whole.
  struct Whole {
    std::string text;
    std::vector<ScoredToken> tokens;
    size_t echo_tokens = 0;
  };
  // What the reply gets in the end.
  struct LastWords {
    std::optional<http::Response> response;  // absent: a stream ends
    std::string tail;
  };

  absl::Status Start();
  void SetUp(const worker::v1::GetModelResponse& model, std::vector<PreparedPrompt>* prompts)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status StartCalls(std::vector<PreparedPrompt> prompts)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnEvent(PromptCall& call, const worker::v1::GenerateResponse& event)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone(PromptCall& call, absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);

  // Nobody will get a whole answer any more: stops all calls. Only the first failure counts.
  void Fail(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CancelCalls() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Observe(PromptCall& call, const worker::v1::Token& token)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Hands pieces of answers on: into the stream, or to wholes_.
  void Deliver(PromptCall& call, std::vector<PromptAnswers::Piece> pieces)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Gather(size_t choice, PromptAnswers::Piece piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The events that one piece is; none, one or two.
  std::string EventsOf(PromptCall& call, const PromptAnswers::Piece& piece) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BeginStream() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  RequestUsage UsageSoFar() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // After every call has ended.
  LastWords Conclude() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string WholeBody() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Tells log and observer how it went.
  void Report(const absl::Status& outcome) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  CompletionReport MakeReport(const absl::Status& outcome) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Addresses of the workers that have or had its prompts, joined by commas.
  std::string Workers() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CompletionContext& context_;
  const Endpoint endpoint_;
  const std::string request_id_;
  const size_t caller_;
  http::Reply* const reply_;
  const absl::Time arrived_ = absl::Now();

  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  http::Request http_request_ ABSL_GUARDED_BY(mutex_);
  ApiRequest request_ ABSL_GUARDED_BY(mutex_);
  AnswerOptions answer_options_ ABSL_GUARDED_BY(mutex_);
  std::optional<ResponseBuilder> builder_ ABSL_GUARDED_BY(mutex_);
  std::string model_ ABSL_GUARDED_BY(mutex_);  // that answers; empty before it is known
  std::vector<std::unique_ptr<PromptCall>> calls_ ABSL_GUARDED_BY(mutex_);
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;  // calls whose last event is to come
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool stream_begun_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Whole> wholes_ ABSL_GUARDED_BY(mutex_);  // by choice; when not streamed
  size_t held_bytes_ ABSL_GUARDED_BY(mutex_) = 0;      // in wholes_, about
  absl::Time first_token_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_COMPLETION_H_
