// Who wants to know how completions went: metrics, and the callers' token budgets.
#ifndef TESSERA_GATEWAY_OPENAI_OBSERVER_H_
#define TESSERA_GATEWAY_OPENAI_OBSERVER_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gateway/openai/request.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

// One request that has ended, however it ended.
struct CompletionReport {
  Endpoint endpoint = Endpoint::kCompletions;
  // Which of the API keys asked; 0 where keys are off.
  size_t caller = 0;
  // What the client got; 200 for a stream that had begun, even if it failed later.
  int http_status = 0;
  // OK, or why the answer is not whole: a stream may have failed after its 200.
  absl::StatusCode outcome = absl::StatusCode::kUnknown;
  // Of every answer: "stop", "length"; "abort" for those that were cut off.
  std::vector<std::string_view> finish_reasons;
  // Of all its prompts together; empty when no prefill ended.
  worker::v1::PromptUsage usage;
  uint32_t completion_tokens = 0;
  bool streamed = false;
  // From arrival. ttft is InfiniteDuration when there was no token.
  absl::Duration ttft = absl::InfiniteDuration();
  absl::Duration total;
  // As the worker said, of the prompt that took longest.
  absl::Duration queued;
  absl::Duration prefill;
};

// Thread-safe. Must not wait.
class CompletionObserver {
 public:
  virtual ~CompletionObserver() = default;

  // A request was accepted and is being prepared, or waits for that; OnFinished follows for each.
  virtual void OnAccepted() = 0;
  // A token came, so long after the one before it in the same answer.
  virtual void OnNextToken(Endpoint endpoint, absl::Duration gap) = 0;
  virtual void OnFinished(const CompletionReport& report) = 0;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_OBSERVER_H_
