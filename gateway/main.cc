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
#include "base/metrics.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "gateway/access/access_control.h"
#include "gateway/access/api_keys.h"
#include "gateway/chunks/cache_calls.h"
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
ABSL_FLAG(uint32_t, chunk_threads, 2,
          "Threads that tokenize texts for /v1/chunks and wait for the cache server.");
ABSL_FLAG(uint32_t, max_prompts, 64, "Prompts in one completions request.");
ABSL_FLAG(uint64_t, affinity_chunks, 65536,
          "Chunks of which is remembered which workers have them in memory; about 128 bytes each. "
          "0: requests go by hash and load alone.");
ABSL_FLAG(std::string, cache, "127.0.0.1:7600",
          "host:port or unix:/path of the cache server, for /v1/chunks; empty: no chunk API.");
ABSL_FLAG(std::string, cache_ca, "",
          "File with the certificates that the cache server's must come from; empty: no TLS.");
ABSL_FLAG(std::string, cache_cert, "",
          "File with this gateway's certificate for the cache server.");
ABSL_FLAG(std::string, cache_key, "", "File with the key of --cache_cert.");
ABSL_FLAG(std::string, cache_token, "",
          "File whose first line is the token that the cache server wants; empty: none.");
ABSL_FLAG(std::string, api_keys_file, "",
          "File of the API keys, a line each: name key [requests_per_minute [tokens_per_minute]]; "
          "empty: everybody may use the gateway.");
ABSL_FLAG(bool, guard_metrics, true, "Whether /metrics wants an API key too.");
ABSL_FLAG(
    std::string, tls_cert_file, "",
    "PEM file of the certificate with its chain; with --tls_key_file the gateway speaks TLS.");
ABSL_FLAG(std::string, tls_key_file, "", "PEM file of the key of --tls_cert_file.");
ABSL_FLAG(std::string, cors_origins, "",
          "Origins of web pages that may use the gateway, comma-separated, or * for all; empty: "
          "none.");
ABSL_FLAG(bool, vllm_metric_names, false, "Show metrics under vLLM's names too.");
ABSL_FLAG(uint32_t, max_header_bytes, 16 << 10,
          "Request line and headers together; more is answered with 431.");
ABSL_FLAG(uint64_t, max_buffered_bytes, 256 << 10,
          "Bytes of one stream that wait for a slow client before the stream is given up.");
ABSL_FLAG(absl::Duration, idle_timeout, absl::Seconds(75),
          "A connection without a request is closed after this.");
ABSL_FLAG(absl::Duration, header_timeout, absl::Seconds(10),
          "From a request's first byte to the end of its headers.");
ABSL_FLAG(absl::Duration, body_timeout, absl::Seconds(60),
          "From the end of a request's headers to the end of its body.");
ABSL_FLAG(absl::Duration, write_timeout, absl::Seconds(30),
          "For one write to a client that does not read.");
ABSL_FLAG(absl::Duration, keep_alive_interval, absl::Seconds(15),
          "A stream on which nothing was written for so long gets a comment line.");
ABSL_FLAG(absl::Duration, first_event_within, absl::Seconds(15),
          "A stream whose first event takes longer is begun without it.");
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
  options.max_header_bytes = absl::GetFlag(FLAGS_max_header_bytes);
  options.max_buffered_bytes = absl::GetFlag(FLAGS_max_buffered_bytes);
  options.idle_timeout = absl::GetFlag(FLAGS_idle_timeout);
  options.header_timeout = absl::GetFlag(FLAGS_header_timeout);
  options.body_timeout = absl::GetFlag(FLAGS_body_timeout);
  options.write_timeout = absl::GetFlag(FLAGS_write_timeout);
  options.keep_alive_interval = absl::GetFlag(FLAGS_keep_alive_interval);
  options.cors_origins =
      absl::StrSplit(absl::GetFlag(FLAGS_cors_origins), ',', absl::SkipWhitespace());
  options.tls_cert_file = absl::GetFlag(FLAGS_tls_cert_file);
  options.tls_key_file = absl::GetFlag(FLAGS_tls_key_file);
  return options;
}

// Null without a cache server.
absl::StatusOr<std::unique_ptr<CacheCalls>> CacheFromFlags() {
  CacheCallsOptions options;
  options.address = absl::GetFlag(FLAGS_cache);
  if (options.address.empty()) return nullptr;
  options.ca_file = absl::GetFlag(FLAGS_cache_ca);
  options.cert_file = absl::GetFlag(FLAGS_cache_cert);
  options.key_file = absl::GetFlag(FLAGS_cache_key);
  options.token_file = absl::GetFlag(FLAGS_cache_token);
  return CacheCalls::Make(options);
}

absl::StatusOr<AccessOptions> AccessFromFlags() {
  AccessOptions options;
  options.guard_metrics = absl::GetFlag(FLAGS_guard_metrics);
  const std::string file = absl::GetFlag(FLAGS_api_keys_file);
  if (file.empty()) return options;
  ASSIGN_OR_RETURN(options.keys, ApiKeys::Load(file));
  return options;
}

// All but what other objects own.
absl::StatusOr<openai::ApiOptions> ApiOptionsFromFlags() {
  openai::ApiOptions options;
  ASSIGN_OR_RETURN(options.access, AccessFromFlags());
  ASSIGN_OR_RETURN(options.segmenter, SegmenterOptionsFromFlags());
  options.completion.timeout = absl::GetFlag(FLAGS_request_timeout);
  options.completion.first_event_within = absl::GetFlag(FLAGS_first_event_within);
  options.completion.max_prompts = std::max(1u, absl::GetFlag(FLAGS_max_prompts));
  options.prepare_threads = static_cast<int>(std::max(1u, absl::GetFlag(FLAGS_prepare_threads)));
  options.max_queued = absl::GetFlag(FLAGS_max_queued);
  options.chunks.threads = std::max(1u, absl::GetFlag(FLAGS_chunk_threads));
  options.vllm_metric_names = absl::GetFlag(FLAGS_vllm_metric_names);
  return options;
}

void ServeUntilStopped(http::Server& server, WorkerPool& workers) {
  workers.Start();
  // Whoever waits for the line below may ask at once: let workers that are up be known by then.
  workers.AwaitFirstAnswers(kFirstAnswers);
  LOG(INFO) << "event=ready listen=" << server.address()
            << " workers=" << absl::GetFlag(FLAGS_workers)
            << " model_dir=" << absl::GetFlag(FLAGS_model_dir);
  WaitForStopSignal();
  LOG(INFO) << "event=stopping connections=" << server.connections();
  server.Stop(absl::GetFlag(FLAGS_drain_timeout));
  LOG(INFO) << "event=stopped";
}

absl::Status Serve() {
  const std::string model_dir = absl::GetFlag(FLAGS_model_dir);
  if (model_dir.empty()) {
    return absl::InvalidArgumentError("--model_dir is required: the folder with tokenizer.json");
  }
  ASSIGN_OR_RETURN(openai::ApiOptions options, ApiOptionsFromFlags());
  ASSIGN_OR_RETURN(const std::unique_ptr<CacheCalls> cache, CacheFromFlags());
  ASSIGN_OR_RETURN(std::vector<std::unique_ptr<WorkerClient>> clients, WorkersFromFlags());
  ASSIGN_OR_RETURN(const ModelText text, LoadModelText(model_dir));

  WorkerPoolOptions pool_options;
  pool_options.max_in_flight = absl::GetFlag(FLAGS_max_in_flight);
  pool_options.affinity_chunks = absl::GetFlag(FLAGS_affinity_chunks);
  WorkerPool workers(std::move(clients), pool_options);

  const openai::Preparer preparer(&text, options.segmenter);
  options.text = &text;
  options.completion.tokenizer = text.tokenizer.get();
  options.completion.preparer = &preparer;
  options.completion.workers = &workers;
  options.chunks.cache = cache.get();
  openai::Api api(options);

  ASSIGN_OR_RETURN(const std::unique_ptr<http::Server> server,
                   http::Server::Listen(ServerOptionsFromFlags(), &api));
  api.metrics().AddSource([&server = *server] {
    return std::vector<MetricSample>{{"tessera_http_connections",
                                      "Open connections.",
                                      false,
                                      {},
                                      static_cast<double>(server.connections())}};
  });
  ServeUntilStopped(*server, workers);
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
