// The KV memory of all requests, in blocks.
#ifndef TESSERA_GPU_WORKER_MODEL_KV_POOL_H_
#define TESSERA_GPU_WORKER_MODEL_KV_POOL_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/config.h"

namespace tessera {

// Blocks of kBlockSlots positions of all layers, with reference counts. A block whose last
// reference goes is free. Memory is reserved when the pool is made, and taken from the machine when
// a block is first written to. Not thread-safe, but for the counts of blocks.
class KvPool {
 public:
  static constexpr int64_t kBlockSlots = LayerKv::kBlockSlots;

  // Throws std::bad_alloc when the memory, which must outlive it, has no room.
  KvPool(const ModelConfig& model, int64_t blocks, DeviceMemory* memory = &HostMemory());
  ~KvPool();
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  static int64_t BlocksFor(int64_t slots) { return (slots + kBlockSlots - 1) / kBlockSlots; }

  // Appends `count` free blocks to *blocks, each with one reference: in one run that goes on behind
  // the last of *blocks where possible, or in the first run that is long enough, or wherever some
  // are. False when fewer are free.
  bool Allocate(int64_t count, std::vector<int32_t>* blocks);
  void AddReference(int32_t block);
  void Release(int32_t block);
  int references(int32_t block) const { return references_[block]; }

  void CopyBlock(int32_t from, int32_t to);

  // The view of a table of this pool's blocks, which must outlive it, and of the same table in the
  // memory of a device that has its own.
  LayerKv Layer(int64_t layer, const std::vector<int32_t>& blocks,
                const int32_t* device_blocks = nullptr) const;
  DeviceMemory& memory() const { return memory_; }

  int64_t blocks() const { return static_cast<int64_t>(references_.size()); }
  int64_t free_blocks() const { return static_cast<int64_t>(free_.size()); }

 private:
  // Bytes of one layer's K, or V.
  int64_t PerLayer() const {
    return blocks() * kBlockSlots * kv_heads_ * head_dim_ * BytesPer(memory_.kv_type());
  }
  // The first of `count` free blocks in a row; -1: there is no such run.
  int32_t FindRun(int64_t count, const std::vector<int32_t>& behind) const;
  void Take(int32_t block, std::vector<int32_t>* blocks);

  DeviceMemory& memory_;
  const int64_t layers_;
  const int64_t kv_heads_;
  const int64_t head_dim_;
  std::vector<int> references_;
  std::set<int32_t> free_;
  size_t bytes_ = 0;
  char* numbers_ = nullptr;  // [layer][K|V][kv_head][slot][head_dim]
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_KV_POOL_H_
