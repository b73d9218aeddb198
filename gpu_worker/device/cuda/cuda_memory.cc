#include "gpu_worker/device/cuda/cuda_memory.h"

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

#include "base/log.h"
#include "gpu_worker/device/cuda/check.h"

namespace tessera::cuda {
namespace {

// Events that nobody uses now: making one takes longer than a launch.
class EventPool {
 public:
  cudaEvent_t Take() {
    const absl::MutexLock lock(&mutex_);
    if (events_.empty()) {
      cudaEvent_t event;
      CUDA_OR_DIE("event", cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
      return event;
    }
    const cudaEvent_t event = events_.back();
    events_.pop_back();
    return event;
  }
  void Give(cudaEvent_t event) {
    const absl::MutexLock lock(&mutex_);
    events_.push_back(event);
  }

 private:
  absl::Mutex mutex_;
  std::vector<cudaEvent_t> events_ ABSL_GUARDED_BY(mutex_);
};

EventPool& Events() {
  static EventPool* const pool = new EventPool();
  return *pool;
}

// Sizes in steps of an eighth of their power of two, so that few are met and little is lost.
size_t SizeClass(size_t bytes) {
  const size_t power = std::bit_floor(std::max<size_t>(bytes, 4096));
  const size_t step = power / 8;
  return (bytes + step - 1) / step * step;
}

void* TakeFrom(FreeBlocks& blocks, size_t size) {
  const auto found = blocks.find(size);
  if (found == blocks.end() || found->second.empty()) return nullptr;
  void* const memory = found->second.back();
  found->second.pop_back();
  return memory;
}

}  // namespace

Event::Event() : event_(Events().Take()) {}
Event::~Event() { Events().Give(event_); }
void Event::Record(cudaStream_t stream) {
  CUDA_OR_DIE("event record", cudaEventRecord(event_, stream));
}
void Event::HoldBack(cudaStream_t stream) const {
  CUDA_OR_DIE("event wait", cudaStreamWaitEvent(stream, event_, 0));
}
void Event::Wait() { CUDA_OR_DIE("event synchronize", cudaEventSynchronize(event_)); }

CudaMemory::CudaMemory() {
  int lowest = 0, highest = 0;
  CUDA_OR_DIE("stream", cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  auto make = [](cudaStream_t* stream, int priority) {
    CUDA_OR_DIE("stream", cudaStreamCreateWithPriority(stream, cudaStreamNonBlocking, priority));
  };
  make(&work_, highest);
  make(&side_, lowest);
  make(&upload_, lowest);
  make(&download_, lowest);
}

CudaMemory::~CudaMemory() {
  CUDA_OR_DIE("synchronize", cudaDeviceSynchronize());
  FreeCached();
  for (auto& [size, blocks] : host_free_) {
    for (void* memory : blocks) cudaFreeHost(memory);
  }
  for (const cudaStream_t stream : {work_, side_, upload_, download_}) cudaStreamDestroy(stream);
}

int64_t CudaMemory::total_bytes() const {
  size_t free = 0, total = 0;
  CUDA_OR_DIE("memory info", cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(total);
}

int64_t CudaMemory::free_bytes() const {
  size_t free = 0, total = 0;
  CUDA_OR_DIE("memory info", cudaMemGetInfo(&free, &total));
  // What is kept for later is free too: see Get.
  for (const auto& [size, blocks] : free_) free += size * blocks.size();
  const absl::MutexLock lock(&mutex_);
  for (const auto& [size, block] : released_) free += size;
  return static_cast<int64_t>(free);
}

void CudaMemory::FreeCached() {
  CUDA_OR_DIE("synchronize", cudaDeviceSynchronize());
  for (auto& [size, blocks] : free_) {
    for (void* memory : blocks) {
      sizes_.erase(memory);
      CUDA_OR_DIE("free", cudaFree(memory));
    }
  }
  free_.clear();
  const absl::MutexLock lock(&mutex_);
  for (auto& [size, block] : released_) CUDA_OR_DIE("free", cudaFree(block.memory));
  released_.clear();
}

void* CudaMemory::Get(size_t bytes) {
  void* memory = nullptr;
  cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    FreeCached();
    error = cudaMalloc(&memory, bytes);
  }
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw std::bad_alloc();
  }
  CUDA_OR_DIE("malloc", error);
  return memory;
}

void* CudaMemory::Allocate(size_t bytes) {
  const size_t size = SizeClass(bytes);
  void* memory = kept_ != nullptr ? TakeFrom(*kept_, size) : nullptr;
  if (memory == nullptr) memory = TakeFrom(free_, size);
  if (memory == nullptr) {
    memory = Get(size);
    sizes_[memory] = size;
  }
  return memory;
}

void CudaMemory::Free(void* memory) {
  if (memory == nullptr) return;
  (kept_ != nullptr ? *kept_ : free_)[sizes_.at(memory)].push_back(memory);
}

void CudaMemory::TakeBack(FreeBlocks* kept) {
  for (auto& [size, blocks] : *kept) {
    std::vector<void*>& to = free_[size];
    to.insert(to.end(), blocks.begin(), blocks.end());
  }
  kept->clear();
}

void* CudaMemory::Reserve(size_t bytes) {
  const size_t size = SizeClass(bytes);
  Reserved block;
  {
    const absl::MutexLock lock(&mutex_);
    auto found = released_.extract(size);
    if (!found.empty()) block = std::move(found.mapped());
  }
  if (block.memory == nullptr) return Get(size);
  block.worked->HoldBack(upload_);
  block.copied->HoldBack(work_);
  return block.memory;
}

void CudaMemory::Release(void* memory, size_t bytes) {
  Reserved block = {memory, std::make_unique<Event>(), std::make_unique<Event>()};
  block.worked->Record(work_);
  block.copied->Record(upload_);
  const absl::MutexLock lock(&mutex_);
  released_.emplace(SizeClass(bytes), std::move(block));
}

void* CudaMemory::AllocateHost(size_t bytes) {
  const size_t size = SizeClass(bytes);
  const absl::MutexLock lock(&mutex_);
  if (void* const memory = TakeFrom(host_free_, size)) return memory;
  void* memory = nullptr;
  const cudaError_t error = cudaMallocHost(&memory, size);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw std::bad_alloc();
  }
  CUDA_OR_DIE("malloc host", error);
  host_sizes_[memory] = size;
  return memory;
}

void CudaMemory::FreeHost(void* memory) {
  const absl::MutexLock lock(&mutex_);
  host_free_[host_sizes_.at(memory)].push_back(memory);
}

// A cache server's memory is mapped to be read only: CUDA must be told, or it asks for more.
void CudaMemory::RegisterHost(const void* begin, size_t bytes) {
  auto* const memory = const_cast<void*>(begin);
  cudaError_t error =
      cudaHostRegister(memory, bytes, cudaHostRegisterPortable | cudaHostRegisterReadOnly);
  if (error != cudaSuccess) {
    cudaGetLastError();
    error = cudaHostRegister(memory, bytes, cudaHostRegisterPortable);
  }
  if (error != cudaSuccess) {
    cudaGetLastError();
    LOG_EVENT(kWarning, "host_memory_not_registered")
        .With("bytes", bytes)
        .With("error", cudaGetErrorString(error))
        .With("msg", "copies from there are slower");
    return;
  }
  const absl::MutexLock lock(&mutex_);
  registered_.insert(begin);
}

void CudaMemory::UnregisterHost(const void* begin) {
  {
    const absl::MutexLock lock(&mutex_);
    if (registered_.erase(begin) == 0) return;
  }
  CUDA_OR_DIE("host unregister", cudaHostUnregister(const_cast<void*>(begin)));
}

void CudaMemory::Upload(const void* from, size_t bytes, void* to) {
  CUDA_OR_DIE("upload", cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, work_));
  // From the program's usual memory CUDA has taken it by now; from AllocateHost's it has not.
  cudaPointerAttributes attributes;
  CUDA_OR_DIE("upload", cudaPointerGetAttributes(&attributes, from));
  if (attributes.type == cudaMemoryTypeHost) Synchronize();
}

void CudaMemory::Download(const void* from, size_t bytes, void* to) {
  CUDA_OR_DIE("download", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, work_));
  Synchronize();
}

void CudaMemory::Copy(const void* from, size_t from_pitch, void* to, size_t to_pitch, size_t bytes,
                      int64_t rows) {
  if (rows == 0 || bytes == 0) return;
  CUDA_OR_DIE("copy", cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, rows,
                                        cudaMemcpyDeviceToDevice, work_));
}

void CudaMemory::Zero(void* memory, size_t bytes) {
  CUDA_OR_DIE("zero", cudaMemsetAsync(memory, 0, bytes, work_));
}

std::unique_ptr<CopyTicket> CudaMemory::BeginUpload(const void* from, size_t bytes, void* to) {
  CUDA_OR_DIE("upload", cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, upload_));
  auto ticket = std::make_unique<Event>();
  ticket->Record(upload_);
  return ticket;
}

void CudaMemory::Await(CopyTicket& ticket) { static_cast<Event&>(ticket).HoldBack(work_); }

std::unique_ptr<CopyTicket> CudaMemory::Mark() {
  auto mark = std::make_unique<Event>();
  mark->Record(work_);
  return mark;
}

void CudaMemory::DownloadBehind(CopyTicket* mark, const void* from, size_t bytes, void* to) {
  static_cast<Event*>(mark)->HoldBack(download_);
  CUDA_OR_DIE("download", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, download_));
  Event done;
  done.Record(download_);
  done.Wait();
}

void CudaMemory::Synchronize() { CUDA_OR_DIE("synchronize", cudaStreamSynchronize(work_)); }

void CudaMemory::Pace() {
  auto now = std::make_unique<Event>();
  now->Record(work_);
  if (pace_ != nullptr) pace_->Wait();
  pace_ = std::move(now);
}

}  // namespace tessera::cuda
