#include "gpu_worker/settings.h"

#include "base/status_macros.h"

namespace tessera {

using config::WorkerConfig;

absl::StatusOr<BlendConfig> BlendConfigFrom(const WorkerConfig& config) {
  BlendConfig blend;
  ASSIGN_OR_RETURN(blend.policy, SelectionPolicy::Parse(config.policy()));
  blend.recompute_ratio = config.recompute_ratio();
  if (config.correction() != "auto") blend.correction = config.correction() == "true";
  blend.sink = config.sink() == "bos"    ? SinkKind::kBos
               : config.sink() == "lead" ? SinkKind::kLead
                                         : SinkKind::kNone;
  blend.check_layer = config.check_layer();
  blend.tokens_per_piece = config.chunk_size();
  blend.layerwise = config.layerwise();
  return blend;
}

CacheAddress CacheAddressFrom(const WorkerConfig& config) {
  CacheAddress cache;
  cache.address = config.cache();
  cache.ca_file = config.cache_ca();
  cache.cert_file = config.cache_cert();
  cache.key_file = config.cache_key();
  cache.token_file = config.cache_token();
  cache.shared_memory = config.cache_shm();
  return cache;
}

std::string ModelNameFrom(const WorkerConfig& config) {
  if (!config.model_name().empty()) return config.model_name();
  std::string folder = config.model();
  while (!folder.empty() && folder.back() == '/') folder.pop_back();
  return folder.substr(folder.rfind('/') + 1);
}

}  // namespace tessera
