// One completion request, from its body to its last byte.
#ifndef TESSERA_GATEWAY_OPENAI_COMPLETION_H_
#define TESSERA_GATEWAY_OPENAI_COMPLETION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/http/handler.h"
#include "gateway/openai/prepare.h"
#include "gateway/openai/request.h"
#include "gateway/openai/response.h"
#include "gateway/router/worker_pool.h"
#include "gateway/text/stream_decoder.h"
#include "gateway/text/tokenizer.h"

namespace tessera::openai {

// What all completions share. Everything outlives them.
struct CompletionContext {
  const Tokenizer* tokenizer = nullptr;
  const Preparer* preparer = nullptr;
  WorkerPool* workers = nullptr;
  // From the request's arrival to its last token.
  absl::Duration timeout = absl::Minutes(10);
};

// Three threads meet here, one after the other but for Cancel: Run on a thread of the API, then the
// worker's callbacks, while Cancel may come from the network at any time. So all but the call
// itself is without a lock: Run is over with it before the first callback can read it.
class Completion final : public http::Work, private GenerateListener {
 public:
  // `context` and `reply` must outlive it.
  Completion(const CompletionContext& context, Endpoint endpoint, std::string request_id,
             std::string body, http::Reply* reply);

  // Parses, tokenizes, and starts the worker's call; or answers with an error. Call once. The
  // object may be gone when this returns.
  void Run();

  void Cancel() override;

  // Answers with an error instead of running. The object may be gone when this returns.
  void Refuse(const absl::Status& status);

 private:
  absl::Status Start();
  void OnEvent(const worker::v1::GenerateResponse& event) override;
  void OnDone(absl::Status status) override;
  void OnStarted(const worker::v1::Started& started);
  void OnToken(uint32_t id);
  // The text of this token is not part of the answer, because it ended it.
  bool Ends(uint32_t id) const;
  // Enough was generated, or nobody listens: stops the worker.
  void CancelCall();
  // What the call's end means: OK when there is a whole answer.
  absl::Status Outcome(absl::Status status) const;
  void FinishStream(const absl::Status& outcome);
  void Log(const absl::Status& outcome) const;

  const CompletionContext& context_;
  const Endpoint endpoint_;
  const std::string request_id_;
  http::Reply* const reply_;
  const absl::Time arrived_ = absl::Now();
  std::string body_;

  ApiRequest request_;
  std::vector<uint32_t> end_token_ids_;
  std::optional<ResponseBuilder> builder_;
  std::optional<StreamDecoder> decoder_;
  std::optional<worker::v1::Started> started_;
  std::optional<worker::v1::Finished> finished_;
  uint32_t completion_tokens_ = 0;
  absl::Time first_token_ = absl::InfiniteFuture();
  std::string text_;          // the answer so far, when it is not streamed
  bool lost_client_ = false;  // the reply dropped bytes

  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<WorkerCall> call_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_COMPLETION_H_
