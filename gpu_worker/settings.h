// The worker's configuration (proto/config.proto) as the options of what it is made of.
#ifndef TESSERA_GPU_WORKER_SETTINGS_H_
#define TESSERA_GPU_WORKER_SETTINGS_H_

#include <string>

#include "absl/status/statusor.h"
#include "base/config/config.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/calibrate/calibrate.h"
#include "gpu_worker/calibrate/calibration.h"
#include "gpu_worker/model/config.h"
#include "gpu_worker/serve/engine.h"
#include "proto/config.pb.h"

namespace tessera {

// INVALID_ARGUMENT: there is no such policy.
absl::StatusOr<BlendConfig> BlendConfigFrom(const config::WorkerConfig& config);

// Takes over what the model's calibration chose, but for the options that are given.
void ApplyCalibration(const Calibration& calibration, const config::LoadedConfig& loaded,
                      config::WorkerConfig* config);

CalibrateOptions CalibrateOptionsFrom(const config::WorkerConfig& config);

// Where the cache server is; an empty address: there is none.
CacheAddress CacheAddressFrom(const config::WorkerConfig& config);

// What clients call the model.
std::string ModelNameFrom(const config::WorkerConfig& config);

// drift: null: none; must outlive the engine.
EngineOptions EngineOptionsFrom(const config::WorkerConfig& config, const Decoder& decoder,
                                DriftSampler* drift);

// Where the device keeps what it measured; empty: nowhere, since neither the option nor the
// environment names a folder.
std::string DeviceCacheFolder(const config::WorkerConfig& config);

// What the chunks that stay resident may take; 0: none stays.
int64_t ChunkPoolBytes(const config::WorkerConfig& config, DeviceMemory& memory);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SETTINGS_H_
