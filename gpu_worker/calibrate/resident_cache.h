// A cache in this process: what a calibration's chunks are resident in.
#ifndef TESSERA_GPU_WORKER_CALIBRATE_RESIDENT_CACHE_H_
#define TESSERA_GPU_WORKER_CALIBRATE_RESIDENT_CACHE_H_

#include <cstddef>
#include <map>
#include <memory>
#include <vector>

#include "cache_server/client/cache_client.h"

namespace tessera {

// Keeps what was stored until Clear. A fetch is a copy within memory, done when it returns. For one
// thread; Clear and Store while no FetchStream lives.
class ResidentCache final : public CacheClient {
 public:
  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override;
  size_t Store(const std::vector<StoreSource>& sources, absl::Duration timeout) override;
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys, absl::Duration timeout) override;
  ClientCounters counters() const override { return counters_; }

  void Clear() { pieces_.clear(); }

 private:
  struct Piece {
    uint64_t slice_bytes = 0;
    std::vector<std::byte> bytes;
  };

  std::map<ChunkKey, Piece> pieces_;
  ClientCounters counters_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_CALIBRATE_RESIDENT_CACHE_H_
