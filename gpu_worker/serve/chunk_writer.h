// Sends fresh chunks to the cache in the background.
#ifndef TESSERA_GPU_WORKER_SERVE_CHUNK_WRITER_H_
#define TESSERA_GPU_WORKER_SERVE_CHUNK_WRITER_H_

#include <atomic>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/kv_loader.h"

namespace tessera {

// Thread-safe. When the cache is slower than the chunks come, the newest are dropped and counted: a
// chunk that is not stored is only a miss later.
class ChunkWriter {
 public:
  // most_bytes: of chunks that wait or are being stored.
  ChunkWriter(CacheClient* client, int64_t tokens_per_piece, int64_t most_bytes);
  // Stores what waits for a few seconds more, then drops it; a store that runs is not broken off.
  ~ChunkWriter();

  void Write(std::vector<FreshChunk> chunks);

  // Chunks.
  uint64_t dropped() const { return dropped_; }

 private:
  struct Job {
    std::vector<FreshChunk> chunks;
    int64_t bytes = 0;
  };

  void Work();

  CacheClient& client_;
  const int64_t tokens_per_piece_;
  const int64_t most_bytes_;
  BoundedQueue<Job> queue_;
  std::atomic<int64_t> pending_bytes_ = 0;
  std::atomic<uint64_t> dropped_ = 0;
  std::atomic<int64_t> stop_by_ms_ = std::numeric_limits<int64_t>::max();  // Unix time
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_CHUNK_WRITER_H_
