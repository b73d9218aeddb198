#include "gateway/settings.h"

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "gateway/access/access_control.h"
#include "gateway/access/api_keys.h"
#include "gateway/text/segmenter.h"

namespace tessera {
namespace {

using config::GatewayConfig;

absl::StatusOr<std::string> Unescaped(const char* option, const std::string& value) {
  std::string text;
  std::string error;
  if (absl::CUnescape(value, &text, &error)) return text;
  return absl::InvalidArgumentError(absl::StrCat("--", option, " has a broken escape: ", error));
}

absl::StatusOr<SegmenterOptions> SegmenterFrom(const GatewayConfig& config) {
  SegmenterOptions options;
  ASSIGN_OR_RETURN(options.separator, Unescaped("blend_separator", config.blend_separator()));
  ASSIGN_OR_RETURN(options.join, Unescaped("blend_join", config.blend_join()));
  options.keep_separator = config.blend_keep_separator();
  return options;
}

http::ServerOptions ServerFrom(const GatewayConfig& config) {
  http::ServerOptions options;
  options.listen = config.listen();
  options.threads = static_cast<int>(config.threads());
  options.max_connections = config.max_connections();
  options.max_body_bytes = config.max_body_bytes();
  options.max_header_bytes = config.max_header_bytes();
  options.max_buffered_bytes = config.max_buffered_bytes();
  options.idle_timeout = absl::Milliseconds(config.idle_timeout());
  options.header_timeout = absl::Milliseconds(config.header_timeout());
  options.body_timeout = absl::Milliseconds(config.body_timeout());
  options.write_timeout = absl::Milliseconds(config.write_timeout());
  options.keep_alive_interval = absl::Milliseconds(config.keep_alive_interval());
  options.cors_origins.assign(config.cors_origins().begin(), config.cors_origins().end());
  options.tls_cert_file = config.tls_cert_file();
  options.tls_key_file = config.tls_key_file();
  return options;
}

CacheCallsOptions CacheFrom(const GatewayConfig& config) {
  CacheCallsOptions options;
  options.address = config.cache();
  options.ca_file = config.cache_ca();
  options.cert_file = config.cache_cert();
  options.key_file = config.cache_key();
  options.token_file = config.cache_token();
  return options;
}

absl::StatusOr<AccessOptions> AccessFrom(const GatewayConfig& config) {
  AccessOptions options;
  options.guard_metrics = config.guard_metrics();
  if (config.api_keys_file().empty()) return options;
  ASSIGN_OR_RETURN(options.keys, ApiKeys::Load(config.api_keys_file()));
  return options;
}

absl::StatusOr<openai::ApiOptions> ApiFrom(const GatewayConfig& config) {
  openai::ApiOptions options;
  ASSIGN_OR_RETURN(options.access, AccessFrom(config));
  ASSIGN_OR_RETURN(options.segmenter, SegmenterFrom(config));
  options.completion.timeout = absl::Milliseconds(config.request_timeout());
  options.completion.first_event_within = absl::Milliseconds(config.first_event_within());
  options.completion.max_prompts = config.max_prompts();
  options.prepare_threads = static_cast<int>(config.prepare_threads());
  options.max_queued = config.max_queued();
  options.chunks.threads = config.chunk_threads();
  options.vllm_metric_names = config.vllm_metric_names();
  return options;
}

}  // namespace

absl::StatusOr<GatewaySettings> SettingsFrom(const GatewayConfig& config) {
  GatewaySettings settings;
  if (config.workers().empty()) {
    return absl::InvalidArgumentError("--workers is empty: give at least one host:port");
  }
  settings.model_dir = config.model_dir();
  settings.workers.assign(config.workers().begin(), config.workers().end());
  settings.pool.max_in_flight = config.max_in_flight();
  settings.pool.affinity_chunks = config.affinity_chunks();
  settings.cache = CacheFrom(config);
  ASSIGN_OR_RETURN(settings.api, ApiFrom(config));
  settings.server = ServerFrom(config);
  settings.live_page = config.live_page();
  settings.drain_timeout = absl::Milliseconds(config.drain_timeout());
  return settings;
}

}  // namespace tessera
