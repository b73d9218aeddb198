// A CUDA device's memory and its streams.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CUDA_MEMORY_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CUDA_MEMORY_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gpu_worker/device/memory.h"

namespace tessera::cuda {

// An event that goes back to a pool. Thread-safe.
class Event final : public CopyTicket {
 public:
  Event();
  ~Event() override;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void Record(cudaStream_t stream);
  void HoldBack(cudaStream_t stream) const;
  void Wait() override;

 private:
  cudaEvent_t event_ = nullptr;
};

// Blocks that were freed, by their size.
using FreeBlocks = std::map<size_t, std::vector<void*>>;

// Work runs on one stream; what is freed is given out again at once, which is safe because all who
// use it do so on that stream. Chunks and KV (Reserve) are also written by copies on a stream of
// their own: their blocks remember what must have ended before they are used again. Memory stays
// with the process until another size needs it.
class CudaMemory final : public DeviceMemory {
 public:
  // The device that is current.
  CudaMemory();
  ~CudaMemory() override;

  bool is_host() const override { return false; }
  DType activation_type() const override { return DType::kBf16; }
  DType kv_type() const override { return DType::kBf16; }
  int64_t row_block() const override { return 8192; }
  int64_t total_bytes() const override;
  int64_t free_bytes() const override;

  void* Allocate(size_t bytes) override;
  void Free(void* memory) override;
  void* Reserve(size_t bytes) override;
  void Release(void* memory, size_t bytes) override;
  void* AllocateHost(size_t bytes) override;
  void FreeHost(void* memory) override;
  void RegisterHost(const void* begin, size_t bytes) override;
  void UnregisterHost(const void* begin) override;

  void Upload(const void* from, size_t bytes, void* to) override;
  void Download(const void* from, size_t bytes, void* to) override;
  void Copy(const void* from, size_t from_pitch, void* to, size_t to_pitch, size_t bytes,
            int64_t rows) override;
  void Zero(void* memory, size_t bytes) override;
  std::unique_ptr<CopyTicket> BeginUpload(const void* from, size_t bytes, void* to) override;
  void Await(CopyTicket& ticket) override;
  std::unique_ptr<CopyTicket> Mark() override;
  void DownloadBehind(CopyTicket* mark, const void* from, size_t bytes, void* to) override;
  void Synchronize() override;
  void Pace() override;

  cudaStream_t stream() const { return work_; }
  // For work beside it, of lower priority.
  cudaStream_t side_stream() const { return side_; }

  // Until EndKeeping, what is allocated comes from `kept` where it can, and goes there when freed:
  // so that a recorded step has its memory to itself.
  void BeginKeeping(FreeBlocks* kept) { kept_ = kept; }
  void EndKeeping() { kept_ = nullptr; }
  // Gives kept blocks back.
  void TakeBack(FreeBlocks* kept);

 private:
  struct Reserved {
    void* memory = nullptr;
    // What used it last, on both streams.
    std::unique_ptr<Event> worked, copied;
  };

  void* Get(size_t bytes);
  void FreeCached();

  cudaStream_t work_ = nullptr, side_ = nullptr, upload_ = nullptr, download_ = nullptr;
  std::unordered_map<void*, size_t> sizes_;  // of allocated blocks
  FreeBlocks free_;
  FreeBlocks* kept_ = nullptr;
  std::unique_ptr<Event> pace_;
  mutable absl::Mutex mutex_;
  // The last owner of a chunk may be the thread that stored it.
  std::multimap<size_t, Reserved> released_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<void*, size_t> host_sizes_ ABSL_GUARDED_BY(mutex_);
  FreeBlocks host_free_ ABSL_GUARDED_BY(mutex_);
  std::set<const void*> registered_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CUDA_MEMORY_H_
