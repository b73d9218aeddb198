// The worker's gRPC service: checks requests, hands them to the engine, streams what it says.
#ifndef TESSERA_GPU_WORKER_SERVE_WORKER_SERVICE_H_
#define TESSERA_GPU_WORKER_SERVE_WORKER_SERVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/resident_chunks.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/drift.h"
#include "gpu_worker/serve/engine.h"
#include "gpu_worker/serve/worker_metrics.h"

namespace tessera {

struct ServedModel {
  std::string name;           // that clients give
  std::string fingerprint;    // hex
  bool blend_enabled = true;  // false: every request runs exact
  bool has_cache = true;      // false: nothing is stored anywhere, and PrefillChunk is refused
  std::string calibration;    // what the defaults were chosen for, and when; empty: nothing
};

// What the service hands requests to. All must outlive the server.
struct ServiceParts {
  const Decoder* decoder = nullptr;
  const BlendConfig* defaults = nullptr;
  Engine* engine = nullptr;
  WorkerMetrics* metrics = nullptr;     // null: nothing is counted
  DriftSampler* drift = nullptr;        // null: no request is sampled
  ResidentChunks* residents = nullptr;  // what WatchChunks tells; null: the call is UNIMPLEMENTED
};

// The running server; destroying it ends it.
class WorkerServer {
 public:
  virtual ~WorkerServer() = default;
  virtual int port() const = 0;
  // Ends running calls within a second and refuses new ones.
  virtual void Shutdown() = 0;
};

// Listens on `address` ("host:port", port 0: any). The health service says NOT_SERVING for none:
// the server starts when the model is ready. UNAVAILABLE: the address is taken.
absl::StatusOr<std::unique_ptr<WorkerServer>> StartWorkerServer(const std::string& address,
                                                                const ServedModel& served,
                                                                const ServiceParts& parts);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_WORKER_SERVICE_H_
