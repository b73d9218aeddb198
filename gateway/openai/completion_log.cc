#include "gateway/openai/completion_log.h"

#include "absl/container/btree_set.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "gateway/openai/error.h"

namespace tessera::openai {
namespace {

// Each once: of a hundred answers that end alike one word is enough.
std::string FinishReasons(const CompletionReport& report) {
  const absl::btree_set<std::string> reasons(report.finish_reasons.begin(),
                                             report.finish_reasons.end());
  return absl::StrJoin(reasons, ",");
}

}  // namespace

void LogCompletion(const CompletionReport& report, const absl::Status& outcome,
                   const CompletionNames& names) {
  const int status = HttpStatus(outcome);
  const LogLevel level = status >= 500 ? LogLevel::kWarning : LogLevel::kInfo;
  if (!IsLogged(level)) return;
  const worker::v1::PromptUsage& usage = report.usage;
  const uint32_t reused = usage.exact_tokens() + usage.blended_tokens() + usage.recomputed_tokens();
  LogLine line(level, "request_done");
  line.With("request", names.id)
      .With("route",
            report.endpoint == Endpoint::kChat ? "/v1/chat/completions" : "/v1/completions")
      .With("status", status)
      .With("model", names.model)
      .With("worker", names.workers)
      .With("stream", report.streamed)
      .With("prompts", names.prompts)
      .With("answers", report.finish_reasons.size())
      .With("prompt_tokens", reused + usage.computed_tokens())
      .With("exact_tokens", usage.exact_tokens())
      .With("blended_tokens", usage.blended_tokens())
      .With("recomputed_tokens", usage.recomputed_tokens())
      .With("computed_tokens", usage.computed_tokens())
      .With("completion_tokens", report.completion_tokens)
      .With("finish", FinishReasons(report));
  if (report.ttft < absl::InfiniteDuration()) line.WithMs("ttft_ms", report.ttft);
  line.WithMs("queue_ms", report.queued)
      .WithMs("prefill_ms", report.prefill)
      .WithMs("total_ms", report.total)
      .WithError(outcome);
}

}  // namespace tessera::openai
