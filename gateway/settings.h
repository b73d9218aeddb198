// The gateway's configuration (proto/config.proto) as the options of what it is made of.
#ifndef TESSERA_GATEWAY_SETTINGS_H_
#define TESSERA_GATEWAY_SETTINGS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/chunks/cache_calls.h"
#include "gateway/http/server.h"
#include "gateway/openai/api.h"
#include "gateway/router/worker_pool.h"
#include "proto/config.pb.h"

namespace tessera {

struct GatewaySettings {
  std::string model_dir;
  std::vector<std::string> workers;  // at least one address
  WorkerPoolOptions pool;
  CacheCallsOptions cache;  // no address: there is no cache server
  // All but what other objects own.
  openai::ApiOptions api;
  http::ServerOptions server;
  absl::Duration drain_timeout;
  bool live_page = true;
};

// Reads the API keys too. INVALID_ARGUMENT names the option, and says what it takes.
absl::StatusOr<GatewaySettings> SettingsFrom(const config::GatewayConfig& config);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_SETTINGS_H_
