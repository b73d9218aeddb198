// A device's memory and the copies to and from it.
#ifndef TESSERA_GPU_WORKER_DEVICE_MEMORY_H_
#define TESSERA_GPU_WORKER_DEVICE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "gpu_worker/device/tensor.h"

namespace tessera {

// When a copy is done. Thread-safe.
class CopyTicket {
 public:
  virtual ~CopyTicket() = default;
  virtual void Wait() = 0;
};

// A device's memory, and how numbers get there and back. What is freed may be given out again at
// once: work that was issued before is not disturbed. Throws std::bad_alloc when the device has no
// more, and nothing was changed then. For the thread that issues the work, where not said
// otherwise.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  // Whether this is the program's own memory, where all may be read and written in place.
  virtual bool is_host() const = 0;
  // Types of activations (but for the residual stream and logits, which are f32) and of KV memory.
  virtual DType activation_type() const = 0;
  virtual DType kv_type() const = 0;
  // Rows of a layer that are computed at a time: bounds the memory of a layer's widest buffers.
  virtual int64_t row_block() const = 0;
  // All memory that there is, and what of it is not given out.
  virtual int64_t total_bytes() const = 0;
  virtual int64_t free_bytes() const = 0;

  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // For long: KV memory and chunks, where copies beside the work may write. Untouched, it takes
  // nothing from a machine that can give pages later.
  virtual void* Reserve(size_t bytes) = 0;
  virtual void Release(void* memory, size_t bytes) = 0;
  // Memory of the program from which copies are fast. Thread-safe.
  virtual void* AllocateHost(size_t bytes) = 0;
  virtual void FreeHost(void* memory) = 0;
  // Memory of the program that somebody else gave, from which copies shall be fast too, until it is
  // unregistered; before it is unmapped. Where that fails they are only slower. Thread-safe; may
  // take long: a device may have all of it put into real memory.
  virtual void RegisterHost(const void* begin, size_t bytes) {}
  virtual void UnregisterHost(const void* begin) {}

  // Behind all work issued before and before all issued later. `from` may be changed afterwards.
  virtual void Upload(const void* from, size_t bytes, void* to) = 0;
  // The same; returns when it is done.
  virtual void Download(const void* from, size_t bytes, void* to) = 0;
  // rows of `bytes` each within the device; the pitches are from row to row.
  virtual void Copy(const void* from, size_t from_pitch, void* to, size_t to_pitch, size_t bytes,
                    int64_t rows) = 0;
  virtual void Zero(void* memory, size_t bytes) = 0;

  // Beside the work, in the order begun: from AllocateHost or registered memory, which stays as it
  // is until the copy is done; Wait returns then, Await holds work issued after it back until then.
  virtual std::unique_ptr<CopyTicket> BeginUpload(const void* from, size_t bytes, void* to) = 0;
  virtual void Await(CopyTicket& ticket) = 0;
  // A mark behind all work issued before; and a copy to AllocateHost memory behind that mark,
  // beside the work issued since. The copy is thread-safe and returns when it is done.
  virtual std::unique_ptr<CopyTicket> Mark() = 0;
  virtual void DownloadBehind(CopyTicket* mark, const void* from, size_t bytes, void* to) = 0;

  // Returns when all work issued so far is done; or, Pace, all but the work issued since the last
  // call of Pace: so that the program knows how far the device is, and the device never waits.
  virtual void Synchronize() = 0;
  virtual void Pace() = 0;
};

// Memory that frees itself; before the device ends.
inline std::shared_ptr<void> AllocateShared(DeviceMemory& memory, size_t bytes) {
  return {memory.Allocate(bytes), [&memory](void* numbers) { memory.Free(numbers); }};
}

// The program's own memory: for devices that compute there.
DeviceMemory& HostMemory();

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_MEMORY_H_
