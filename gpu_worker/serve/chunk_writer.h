// Sends fresh chunks to the cache in the background.
#ifndef TESSERA_GPU_WORKER_SERVE_CHUNK_WRITER_H_
#define TESSERA_GPU_WORKER_SERVE_CHUNK_WRITER_H_

#include <atomic>
#include <cstdint>
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
  // capacity: requests whose chunks may wait.
  ChunkWriter(CacheClient* client, int64_t tokens_per_piece, size_t capacity);
  ~ChunkWriter();

  void Write(std::vector<FreshChunk> chunks);

  uint64_t dropped() const { return dropped_; }

 private:
  void Work();

  CacheClient& client_;
  const int64_t tokens_per_piece_;
  BoundedQueue<std::vector<FreshChunk>> queue_;
  std::atomic<uint64_t> dropped_ = 0;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_CHUNK_WRITER_H_
