// Memory that other processes of this machine may map, read-only.
#ifndef TESSERA_CACHE_SERVER_CHUNK_SHARED_MEMORY_H_
#define TESSERA_CACHE_SERVER_CHUNK_SHARED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace tessera {

// A memfd and this process's mapping of it. Pages are taken from the system when they are first
// written. It has no name in any file system: only who is given the descriptor can map it, and only
// for reading (it is sealed: F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE). Thread-safe.
class SharedMemory {
 public:
  // Memory for this process to write, zero-filled, rounded up to whole pages. With
  // `huge_pages`, in pages of 2 MiB where the system gives them: reserved ones (hugetlb) if there
  // are enough, else transparent ones; plain pages otherwise.
  // RESOURCE_EXHAUSTED: no descriptor or no address space. INVALID_ARGUMENT: size 0.
  static absl::StatusOr<std::shared_ptr<SharedMemory>> Create(uint64_t bytes, bool huge_pages);

  // Maps what another process created, read-only. Takes over `fd`, also when it fails.
  // INVALID_ARGUMENT: not a memfd, or not sealed against shrinking (reading it could then kill this
  // process).
  static absl::StatusOr<std::shared_ptr<SharedMemory>> Attach(int fd);

  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Null for attached memory.
  std::byte* mutable_data() const { return writable_ ? data_ : nullptr; }
  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  // To be sent to who shall attach it; stays open as long as this object.
  int fd() const { return fd_; }
  // Bytes of a page of the mapping: 4 KiB, or 2 MiB for reserved huge pages.
  uint64_t page_bytes() const { return page_bytes_; }

  // Whether [p, p + bytes) lies in this memory.
  bool Contains(const std::byte* p, uint64_t bytes) const {
    return p >= data_ && p <= data_ + size_ && bytes <= static_cast<uint64_t>(data_ + size_ - p);
  }

 private:
  SharedMemory(int fd, std::byte* data, uint64_t size, uint64_t page_bytes, bool writable)
      : fd_(fd), data_(data), size_(size), page_bytes_(page_bytes), writable_(writable) {}

  const int fd_;
  std::byte* const data_;
  const uint64_t size_;
  const uint64_t page_bytes_;
  const bool writable_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CHUNK_SHARED_MEMORY_H_
