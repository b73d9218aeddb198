#include "gpu_worker/settings.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "gpu_worker/calibrate/sink_name.h"

namespace tessera {

using config::WorkerConfig;

absl::StatusOr<BlendConfig> BlendConfigFrom(const WorkerConfig& config) {
  BlendConfig blend;
  ASSIGN_OR_RETURN(blend.policy, SelectionPolicy::Parse(config.policy()));
  blend.recompute_ratio = config.recompute_ratio();
  if (config.correction() != "auto") blend.correction = config.correction() == "true";
  ASSIGN_OR_RETURN(blend.sink, ParseSink(config.sink()));
  blend.check_layer = config.check_layer();
  blend.tokens_per_piece = config.chunk_size();
  blend.layerwise = config.layerwise();
  blend.choose_by_cost = config.choose_by_cost();
  return blend;
}

void ApplyCalibration(const Calibration& calibration, const config::LoadedConfig& loaded,
                      WorkerConfig* config) {
  auto given = [&](const char* option) {
    return IsGiven(loaded, *WorkerConfig::descriptor(), option);
  };
  if (!given("policy")) config->set_policy(calibration.policy);
  if (!given("recompute_ratio")) config->set_recompute_ratio(calibration.recompute_ratio);
  if (!given("correction")) config->set_correction(calibration.correction ? "true" : "false");
  if (!given("sink")) config->set_sink(calibration.sink);
}

CalibrateOptions CalibrateOptionsFrom(const WorkerConfig& config) {
  auto all = [](const auto& texts) { return std::vector<std::string>(texts.begin(), texts.end()); };
  return {.model_folder = config.model(),
          .cases = config.calibrate(),
          .budget = config.budget(),
          .policies = all(config.calibrate_policies()),
          .ratios = all(config.calibrate_ratios()),
          .sinks = all(config.calibrate_sinks())};
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

namespace {

// A machine gives its memory to others too, and takes some back; what a device has left is ours.
int64_t BytesToDivide(const DeviceMemory& memory) {
  return memory.is_host() ? memory.total_bytes() : memory.free_bytes();
}

}  // namespace

EngineOptions EngineOptionsFrom(const config::WorkerConfig& config, const Decoder& decoder,
                                DriftSampler* drift) {
  EngineOptions options;
  options.drift = drift;
  options.queue = config.queue();
  options.scheduler.max_running = config.max_running();
  options.scheduler.decode_share = config.decode_share();
  options.priority_step = absl::Milliseconds(config.priority_step());
  const int64_t bytes = config.kv_bytes() > 0 ? static_cast<int64_t>(config.kv_bytes())
                                              : BytesToDivide(decoder.memory()) / 2;
  options.kv_tokens = bytes / decoder.KvBytesPerToken();
  return options;
}

std::string DeviceCacheFolder(const WorkerConfig& config) {
  if (!config.device_cache().empty()) return config.device_cache();
  auto from = [](const char* variable, const char* folder) {
    const char* const value = std::getenv(variable);
    return value == nullptr || *value == '\0' ? "" : absl::StrCat(value, folder);
  };
  const std::string folder = from("XDG_CACHE_HOME", "/tessera/device");
  return folder.empty() ? from("HOME", "/.cache/tessera/device") : folder;
}

int64_t ChunkPoolBytes(const config::WorkerConfig& config, DeviceMemory& memory) {
  if (!config.chunk_pool()) return 0;
  return config.chunk_pool_bytes() > 0 ? static_cast<int64_t>(config.chunk_pool_bytes())
                                       : BytesToDivide(memory) / 8;
}

}  // namespace tessera
