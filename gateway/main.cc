// tessera_gateway: OpenAI REST in, segments of token ids out to the workers, server-sent events
// back.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "gateway/http/server.h"
#include "gateway/openai/api.h"
#include "gateway/openai/prepare.h"
#include "gateway/router/worker_client.h"
#include "gateway/router/worker_pool.h"
#include "gateway/text/model_text.h"
#include "gateway/text/segmenter.h"
#include "glog/logging.h"

ABSL_FLAG(std::string, listen, "0.0.0.0:8000",
          "host:port to serve HTTP on; an IPv6 host in brackets; port 0 takes a free one.");
ABSL_FLAG(std::string, workers, "127.0.0.1:7601",
          "Addresses of the workers, host:port, comma-separated. They need not be up yet.");
ABSL_FLAG(
    std::string, model_dir, "",
    "The model's folder: tokenizer.json or tokenizer.model, and tokenizer_config.json. Required; "
    "must be the folder of the model that the workers serve.");
ABSL_FLAG(
    std::string, blend_separator, " # # ",
    "Text that marks a border between segments in prompts and messages. C escapes such as \\n "
    "are understood. Empty: no text marks a border.");
ABSL_FLAG(std::string, blend_join, "\\n\\n",
          "What stands in the prompt in place of a separator; C escapes are understood.");
ABSL_FLAG(bool, blend_keep_separator, false,
          "Leave the separator in the prompt instead of putting --blend_join there.");
ABSL_FLAG(uint64_t, max_body_bytes, 16 << 20,
          "Largest request body in bytes; a larger one is answered with 413.");
ABSL_FLAG(uint32_t, max_connections, 4096, "Client connections at a time; past it, 503.");
ABSL_FLAG(uint32_t, max_queued, 256, "Requests that may wait to be tokenized; past it, 429.");
ABSL_FLAG(uint32_t, max_in_flight, 1024,
          "Requests that run or wait on one worker at a time; past it on all workers, 429.");
ABSL_FLAG(uint32_t, threads, 2,
          "Network threads. A stream costs no thread; more are needed only for many fast streams.");
ABSL_FLAG(uint32_t, prepare_threads, 1, "Threads that parse and tokenize prompts.");
ABSL_FLAG(absl::Duration, request_timeout, absl::Minutes(10),
          "From a request's arrival to its last token; past it, 504.");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(5),
          "After SIGTERM, how long running requests may still take before they are cancelled.");

namespace tessera {
namespace {

constexpr absl::Duration kFirstAnswers = absl::Seconds(2);

absl::StatusOr<std::string> Unescaped(const std::string& flag, const std::string& value) {
  std::string text;
  std::string error;
  if (absl::CUnescape(value, &text, &error)) return text;
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " has a broken escape: ", error));
}

absl::StatusOr<SegmenterOptions> SegmenterOptionsFromFlags() {
  SegmenterOptions options;
  ASSIGN_OR_RETURN(options.separator,
                   Unescaped("blend_separator", absl::GetFlag(FLAGS_blend_separator)));
  ASSIGN_OR_RETURN(options.join, Unescaped("blend_join", absl::GetFlag(FLAGS_blend_join)));
  options.keep_separator = absl::GetFlag(FLAGS_blend_keep_separator);
  return options;
}

absl::StatusOr<std::vector<std::unique_ptr<WorkerClient>>> WorkersFromFlags() {
  std::vector<std::unique_ptr<WorkerClient>> workers;
  const std::string addresses = absl::GetFlag(FLAGS_workers);
  for (const absl::string_view address : absl::StrSplit(addresses, ',', absl::SkipWhitespace())) {
    workers.push_back(ConnectWorker(std::string(absl::StripAsciiWhitespace(address))));
  }
  if (workers.empty()) {
    return absl::InvalidArgumentError("--workers is empty: give at least one host:port");
  }
  return workers;
}

http::ServerOptions ServerOptionsFromFlags() {
  http::ServerOptions options;
  options.listen = absl::GetFlag(FLAGS_listen);
  options.threads = static_cast<int>(std::max(1u, absl::GetFlag(FLAGS_threads)));
  options.max_connections = absl::GetFlag(FLAGS_max_connections);
  options.max_body_bytes = absl::GetFlag(FLAGS_max_body_bytes);
  return options;
}

absl::Status Serve() {
  const std::string model_dir = absl::GetFlag(FLAGS_model_dir);
  if (model_dir.empty()) {
    return absl::InvalidArgumentError("--model_dir is required: the folder with tokenizer.json");
  }
  ASSIGN_OR_RETURN(const ModelText text, LoadModelText(model_dir));
  ASSIGN_OR_RETURN(const SegmenterOptions segmenter, SegmenterOptionsFromFlags());
  ASSIGN_OR_RETURN(std::vector<std::unique_ptr<WorkerClient>> clients, WorkersFromFlags());

  WorkerPoolOptions pool_options;
  pool_options.max_in_flight = absl::GetFlag(FLAGS_max_in_flight);
  WorkerPool workers(std::move(clients), pool_options);

  const openai::Preparer preparer(&text, segmenter);
  openai::ApiOptions api_options;
  api_options.completion.tokenizer = text.tokenizer.get();
  api_options.completion.preparer = &preparer;
  api_options.completion.workers = &workers;
  api_options.completion.timeout = absl::GetFlag(FLAGS_request_timeout);
  api_options.prepare_threads =
      static_cast<int>(std::max(1u, absl::GetFlag(FLAGS_prepare_threads)));
  api_options.max_queued = absl::GetFlag(FLAGS_max_queued);
  openai::Api api(api_options);

  ASSIGN_OR_RETURN(const std::unique_ptr<http::Server> server,
                   http::Server::Listen(ServerOptionsFromFlags(), &api));
  workers.Start();
  // Whoever waits for the line below may ask at once: let workers that are up be known by then.
  workers.AwaitFirstAnswers(kFirstAnswers);
  LOG(INFO) << "event=ready listen=" << server->address()
            << " workers=" << absl::GetFlag(FLAGS_workers) << " model_dir=" << model_dir;
  WaitForStopSignal();
  LOG(INFO) << "event=stopping connections=" << server->connections();
  server->Stop(absl::GetFlag(FLAGS_drain_timeout));
  LOG(INFO) << "event=stopped";
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "The OpenAI-compatible HTTP gateway of Tessera. Flags: --help=main.");
  tessera::StartProcess(argc, argv);
  const absl::Status status = tessera::Serve();
  if (status.ok()) return 0;
  LOG(ERROR) << status.message();
  return 1;
}
