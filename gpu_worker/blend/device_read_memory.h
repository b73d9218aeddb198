// The cache client's memory, such that a device copies from there fast.
#ifndef TESSERA_GPU_WORKER_BLEND_DEVICE_READ_MEMORY_H_
#define TESSERA_GPU_WORKER_BLEND_DEVICE_READ_MEMORY_H_

#include <cstddef>
#include <memory>
#include <new>

#include "cache_server/client/cache_client.h"
#include "gpu_worker/device/memory.h"

namespace tessera {

// For a device with memory of its own. Thread-safe.
class DeviceReadMemory final : public ReadMemory {
 public:
  // The device must outlive it, and all that it allocates.
  explicit DeviceReadMemory(DeviceMemory* device) : device_(*device) {}

  std::shared_ptr<std::byte> Allocate(size_t bytes) override {
    try {
      return {static_cast<std::byte*>(device_.AllocateHost(bytes)),
              [&device = device_](std::byte* memory) { device.FreeHost(memory); }};
    } catch (const std::bad_alloc&) {
      // No more memory of that kind: copies from any other are right, and only slower.
      return {new std::byte[bytes], std::default_delete<std::byte[]>()};
    }
  }
  void Mapped(const std::byte* begin, size_t bytes) override { device_.RegisterHost(begin, bytes); }
  void Unmapped(const std::byte* begin) override { device_.UnregisterHost(begin); }

 private:
  DeviceMemory& device_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_DEVICE_READ_MEMORY_H_
