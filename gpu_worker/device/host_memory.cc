#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

#include "glog/logging.h"
#include "gpu_worker/device/memory.h"

namespace tessera {
namespace {

// Copies within the program's memory are done when they are begun.
class Done final : public CopyTicket {
 public:
  void Wait() override {}
};

class Host final : public DeviceMemory {
 public:
  bool is_host() const override { return true; }
  DType activation_type() const override { return DType::kF32; }
  DType kv_type() const override { return DType::kF32; }
  int64_t row_block() const override { return 512; }
  int64_t total_bytes() const override { return Pages(_SC_PHYS_PAGES); }
  int64_t free_bytes() const override { return Pages(_SC_AVPHYS_PAGES); }

  void* Allocate(size_t bytes) override { return ::operator new(bytes, kAlignment); }
  void Free(void* memory) override { ::operator delete(memory, kAlignment); }

  void* Reserve(size_t bytes) override {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return memory;
  }
  void Release(void* memory, size_t bytes) override { munmap(memory, bytes); }

  void* AllocateHost(size_t bytes) override { return Allocate(bytes); }
  void FreeHost(void* memory) override { Free(memory); }

  void Upload(const void* from, size_t bytes, void* to) override { std::memcpy(to, from, bytes); }
  void Download(const void* from, size_t bytes, void* to) override { std::memcpy(to, from, bytes); }
  void Copy(const void* from, size_t from_pitch, void* to, size_t to_pitch, size_t bytes,
            int64_t rows) override {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(static_cast<char*>(to) + r * to_pitch,
                  static_cast<const char*>(from) + r * from_pitch, bytes);
    }
  }
  void Zero(void* memory, size_t bytes) override { std::memset(memory, 0, bytes); }

  std::unique_ptr<CopyTicket> BeginUpload(const void* from, size_t bytes, void* to) override {
    Upload(from, bytes, to);
    return std::make_unique<Done>();
  }
  void Await(CopyTicket& ticket) override {}
  std::unique_ptr<CopyTicket> Mark() override { return std::make_unique<Done>(); }
  void DownloadBehind(CopyTicket* mark, const void* from, size_t bytes, void* to) override {
    Download(from, bytes, to);
  }
  void Synchronize() override {}
  void Pace() override {}

 private:
  static constexpr std::align_val_t kAlignment{64};
  static int64_t Pages(int which) { return int64_t{sysconf(which)} * sysconf(_SC_PAGESIZE); }
};

}  // namespace

DeviceMemory& HostMemory() {
  static Host* const host = new Host();
  return *host;
}

}  // namespace tessera
