// The log line of a completion request.
#ifndef TESSERA_GATEWAY_OPENAI_COMPLETION_LOG_H_
#define TESSERA_GATEWAY_OPENAI_COMPLETION_LOG_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "gateway/openai/observer.h"

namespace tessera::openai {

// What the report does not say.
struct CompletionNames {
  std::string id;
  std::string model;    // empty: not known when it ended
  std::string workers;  // addresses, joined by commas; empty: it reached none
  size_t prompts = 0;   // that were sent to workers
};

// Logs request_done: a warning for what the server failed at (5xx), else info. `outcome` says why
// the answer is not whole; its message may quote a field's name or value, as the client is told.
void LogCompletion(const CompletionReport& report, const absl::Status& outcome,
                   const CompletionNames& names);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_COMPLETION_LOG_H_
