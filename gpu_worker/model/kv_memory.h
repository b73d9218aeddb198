// The KV of one request: every layer's rotated K and V for positions 0 .. capacity - 1.
#ifndef TESSERA_GPU_WORKER_MODEL_KV_MEMORY_H_
#define TESSERA_GPU_WORKER_MODEL_KV_MEMORY_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/activations.h"
#include "gpu_worker/model/config.h"
#include "gpu_worker/model/kv_pool.h"

namespace tessera {

// Either memory of its own, or a table of blocks of a pool, some of which may be shared with other
// requests (PagedAttention: Kwon et al. 2023). Moves, never copies. Memory is not cleared: a slot
// has meaning once something was written to it. Shared slots must not be written to. Not
// thread-safe.
class KvMemory {
 public:
  KvMemory() = default;
  // Memory of its own.
  KvMemory(const ModelConfig& model, int64_t capacity, DeviceMemory& memory = HostMemory())
      : capacity_(capacity),
        kv_heads_(model.kv_heads),
        head_dim_(model.head_dim),
        number_bytes_(BytesPer(memory.kv_type())),
        numbers_(AllocateShared(memory, model.layers * 2 * PerLayer())) {}
  // No blocks yet. The pool must outlive it.
  explicit KvMemory(KvPool* pool) : pool_(pool) {}
  ~KvMemory() { ReleaseBlocks(); }

  KvMemory(KvMemory&& other) noexcept { Swap(other); }
  KvMemory& operator=(KvMemory&& other) noexcept {
    KvMemory taken(std::move(other));
    Swap(taken);
    return *this;
  }

  LayerKv Layer(int64_t layer) const {
    if (pool_ != nullptr) return pool_->Layer(layer, blocks_, DeviceBlocks());
    char* k = static_cast<char*>(numbers_.get()) + layer * 2 * PerLayer();
    return {k, k + PerLayer(), capacity_, kv_heads_, head_dim_};
  }

  // Of a pool's: the slots of its blocks.
  int64_t capacity() const { return capacity_; }
  const std::vector<int32_t>& blocks() const { return blocks_; }
  const KvPool* pool() const { return pool_; }

  // For memory of a pool. Adds blocks until `slots` fit. False when the pool has too few: then
  // nothing has changed.
  bool Grow(int64_t slots);
  // Adds a reference to these blocks behind its own.
  void Share(absl::Span<const int32_t> blocks);
  // Another table over the first `slots` slots: whole blocks are shared, what stands in the last,
  // not whole one is copied. False, and *fork is left alone, when the pool has no block for that.
  bool Fork(int64_t slots, KvMemory* fork) const;

  static int64_t BytesPerToken(const ModelConfig& model, DType kv_type) {
    return model.layers * 2 * model.kv_heads * model.head_dim * BytesPer(kv_type);
  }

 private:
  // Bytes of one layer's K, or V, in memory of its own.
  int64_t PerLayer() const { return capacity_ * kv_heads_ * head_dim_ * number_bytes_; }
  // blocks_ in the memory of a device that has its own.
  const int32_t* DeviceBlocks() const;
  void ReleaseBlocks();
  void Swap(KvMemory& other) noexcept;

  int64_t capacity_ = 0;
  int64_t kv_heads_ = 0;
  int64_t head_dim_ = 0;
  int64_t number_bytes_ = 0;
  std::shared_ptr<void> numbers_;
  KvPool* pool_ = nullptr;
  std::vector<int32_t> blocks_;
  mutable Indices device_blocks_;  // blocks_ as they were when last asked for
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_KV_MEMORY_H_
