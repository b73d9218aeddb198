// tessera_gateway: OpenAI REST in, segments of token ids out to the workers, server-sent events
// back.
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "base/config/start.h"
#include "base/grpc_log.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/process.h"
#include "base/process_metrics.h"
#include "base/status_macros.h"
#include "gateway/chunks/cache_calls.h"
#include "gateway/http/server.h"
#include "gateway/live/live_page.h"
#include "gateway/openai/api.h"
#include "gateway/openai/prepare.h"
#include "gateway/router/worker_client.h"
#include "gateway/router/worker_names.h"
#include "gateway/router/worker_pool.h"
#include "gateway/settings.h"
#include "gateway/text/model_text.h"
#include "proto/config.pb.h"

namespace tessera {
namespace {

// Of the names' addresses, then of the workers.
constexpr absl::Duration kFirstAnswers = absl::Seconds(2);

std::vector<std::unique_ptr<WorkerClient>> Connect(const std::vector<std::string>& addresses) {
  std::vector<std::unique_ptr<WorkerClient>> workers;
  for (const std::string& address : addresses) workers.push_back(ConnectWorker(address));
  return workers;
}

// Null without a cache server.
absl::StatusOr<std::unique_ptr<CacheCalls>> ConnectCache(const CacheCallsOptions& options) {
  if (options.address.empty()) return nullptr;
  return CacheCalls::Make(options);
}

void ServeUntilStopped(const GatewaySettings& settings, http::Server& server, WorkerPool& workers) {
  workers.Start();
  WorkerNames names(settings.workers, FindAddresses,
                    [&](const std::vector<std::string>& found) { workers.SetAddresses(found); });
  names.Start();
  names.AwaitFirstLookup(kFirstAnswers);
  // Whoever waits for the line below may ask at once: let workers that are up be known by then.
  workers.AwaitFirstAnswers(kFirstAnswers);
  LOG_EVENT(kInfo, "ready")
      .With("listen", server.address())
      .With("workers", absl::StrJoin(settings.workers, ","))
      .With("model_dir", settings.model_dir);
  WaitForStopSignal();
  LOG_EVENT(kInfo, "stopping").With("connections", server.connections());
  server.Stop(settings.drain_timeout);
  LOG_EVENT(kInfo, "stopped");
}

absl::Status Serve(const config::GatewayConfig& config) {
  QuietGrpc();
  ASSIGN_OR_RETURN(const GatewaySettings settings, SettingsFrom(config));
  ASSIGN_OR_RETURN(const std::unique_ptr<CacheCalls> cache, ConnectCache(settings.cache));
  ASSIGN_OR_RETURN(const ModelText text, LoadModelText(settings.model_dir));
  WorkerPool workers(Connect(settings.workers), settings.pool);

  const LivePage live_page;
  openai::ApiOptions options = settings.api;
  if (settings.live_page) options.live_page = &live_page;
  const openai::Preparer preparer(&text, options.segmenter);
  options.text = &text;
  options.completion.tokenizer = text.tokenizer.get();
  options.completion.preparer = &preparer;
  options.completion.workers = &workers;
  options.chunks.cache = cache.get();
  openai::Api api(options);

  ASSIGN_OR_RETURN(const std::unique_ptr<http::Server> server,
                   http::Server::Listen(settings.server, &api));
  api.metrics().AddSource([&server = *server] {
    return std::vector<MetricSample>{{"tessera_http_connections",
                                      "Open connections.",
                                      false,
                                      {},
                                      static_cast<double>(server.connections())}};
  });
  api.metrics().AddSource([] { return ProcessSamples("gateway"); });
  ServeUntilStopped(settings, *server, workers);
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::config::GatewayConfig config;
  tessera::config::StartConfigured(argc, argv, &config);
  const absl::Status status = tessera::Serve(config);
  if (status.ok()) return 0;
  std::cerr << "tessera_gateway: " << status.message() << "\n";
  return 1;
}
