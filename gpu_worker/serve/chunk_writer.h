// Sends fresh chunks to the cache in the background.
#ifndef TESSERA_GPU_WORKER_SERVE_CHUNK_WRITER_H_
#define TESSERA_GPU_WORKER_SERVE_CHUNK_WRITER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/bounded_queue.h"
#include "cache_server/chunk/key.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/kv_loader.h"

namespace tessera {

// Pieces to store while somebody waits to hear of it.
struct AwaitedStore {
  std::unique_ptr<RawChunk> chunk;  // holds the sources' memory
  std::vector<StoreSource> sources;
  std::vector<ChunkKey> keys;  // of all pieces that the cache should have then
  std::string request_id;      // as Write's
  // Told once, on the writer's thread or by Store itself: how many of the keys the cache does not
  // have in the end. UNAVAILABLE: the worker ends; RESOURCE_EXHAUSTED: the queue is full.
  std::function<void(absl::StatusOr<size_t> missing)> done;
};

// Thread-safe. When the cache is slower than the chunks come, the newest are dropped and counted: a
// chunk that is not stored is only a miss later.
class ChunkWriter {
 public:
  // A share of the bytes that may wait or be stored at once; given back at its end.
  class Room {
   public:
    Room() = default;
    Room(Room&& other) { *this = std::move(other); }
    Room& operator=(Room&& other) {
      std::swap(pending_, other.pending_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Room() {
      if (pending_ != nullptr) *pending_ -= bytes_;
    }
    int64_t bytes() const { return bytes_; }  // 0: none

   private:
    friend class ChunkWriter;
    std::atomic<int64_t>* pending_ = nullptr;
    int64_t bytes_ = 0;
  };

  // most_bytes: of chunks that wait or are being stored.
  ChunkWriter(CacheClient* client, int64_t tokens_per_piece, int64_t most_bytes);
  // Stores what waits for a few seconds more, then drops it; a store that runs is not broken off.
  ~ChunkWriter();

  // request_id: whose they are, for the cache server's log (CallOptions).
  void Write(std::vector<FreshChunk> chunks, const std::string& request_id = {});

  // Room for `bytes`, for chunks that are yet to be computed; empty when there is not so much.
  Room TryReserve(int64_t bytes);
  // Stores in turn with what Write was given. room: for the chunk.
  void Store(AwaitedStore store, Room room);

  // Chunks.
  uint64_t dropped() const { return dropped_; }

 private:
  struct Job {
    std::vector<Room> rooms;
    std::vector<FreshChunk> chunks;  // of Write
    AwaitedStore awaited;            // of Store; its done is empty otherwise
    std::string request_id;          // of Write
  };

  void Work();
  void RunAwaited(Job& job, absl::Duration timeout);

  CacheClient& client_;
  const int64_t tokens_per_piece_;
  const int64_t most_bytes_;
  std::atomic<int64_t> pending_bytes_ = 0;  // before queue_, whose rooms point to it
  BoundedQueue<Job> queue_;
  std::atomic<uint64_t> dropped_ = 0;
  std::atomic<int64_t> stop_by_ms_ = std::numeric_limits<int64_t>::max();  // Unix time
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_CHUNK_WRITER_H_
