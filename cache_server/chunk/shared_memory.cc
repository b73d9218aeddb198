#include "cache_server/chunk/shared_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr uint64_t kMostBytes = std::numeric_limits<off_t>::max() - kHugePage;

uint64_t RoundUp(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

// A descriptor, closed unless taken out.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  int Take() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_;
};

// A mapped memfd that nobody owns yet.
struct Mapping {
  int fd = -1;
  std::byte* data = nullptr;
  uint64_t size = 0;
};

absl::Status SystemError(const char* call, uint64_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no shared memory of ", bytes, " bytes: ", call, ": ", std::strerror(errno)));
}

// Whether the kernel really gives a page: a container may be forbidden any huge page although the
// mapping succeeded, and would then die on its first write.
bool FirstPageIsThere(int fd, uint64_t page_bytes) {
  return fallocate(fd, 0, 0, static_cast<off_t>(page_bytes)) == 0;
}

absl::StatusOr<Mapping> MapNew(uint64_t bytes, unsigned int flags, uint64_t page_bytes) {
  const uint64_t size = RoundUp(bytes, page_bytes);
  Descriptor fd(memfd_create("tessera", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags));
  if (fd.get() < 0) return SystemError("memfd_create", size);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return SystemError("ftruncate", size);
  // Of reserved huge pages, mmap takes as many as the mapping needs, or fails.
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return SystemError("mmap", size);
  const bool reserved = (flags & MFD_HUGETLB) != 0;
  // Only now: FUTURE_WRITE leaves this one writable mapping as it is.
  if ((reserved && !FirstPageIsThere(fd.get(), page_bytes)) ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) != 0) {
    const absl::Status status = SystemError("sealing", size);
    munmap(data, size);
    return status;
  }
  return Mapping{fd.Take(), static_cast<std::byte*>(data), size};
}

}  // namespace

absl::StatusOr<std::shared_ptr<SharedMemory>> SharedMemory::Create(uint64_t bytes,
                                                                   bool huge_pages) {
  if (bytes == 0) return absl::InvalidArgumentError("shared memory needs at least one byte");
  if (bytes > kMostBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no shared memory of ", bytes, " bytes: more than an address space"));
  }
  uint64_t page_bytes = kHugePage;
  absl::StatusOr<Mapping> mapping = absl::ResourceExhaustedError("no huge pages wanted");
  if (huge_pages) mapping = MapNew(bytes, MFD_HUGETLB | MFD_HUGE_2MB, kHugePage);
  if (!mapping.ok()) {
    page_bytes = kPage;
    mapping = MapNew(bytes, 0, kPage);
    if (!mapping.ok()) return mapping.status();
    // A wish: the kernel may be set to have no huge pages for shared memory.
    if (huge_pages) (void)madvise(mapping->data, mapping->size, MADV_HUGEPAGE);
  }
  return std::shared_ptr<SharedMemory>(
      new SharedMemory(mapping->fd, mapping->data, mapping->size, page_bytes, true));
}

absl::StatusOr<std::shared_ptr<SharedMemory>> SharedMemory::Attach(int raw_fd) {
  Descriptor fd(raw_fd);
  struct stat file = {};
  if (fd.get() < 0 || fstat(fd.get(), &file) != 0) {
    return absl::InvalidArgumentError("shared memory: not an open descriptor");
  }
  // Files of other kinds have no seals: fcntl fails.
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return absl::InvalidArgumentError(
        "shared memory: not a memfd that is sealed against shrinking");
  }
  if (file.st_size <= 0) return absl::InvalidArgumentError("shared memory of no bytes");
  const auto size = static_cast<uint64_t>(file.st_size);
  struct statfs system = {};
  const bool huge = fstatfs(fd.get(), &system) == 0 && system.f_type == HUGETLBFS_MAGIC;
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return SystemError("mmap", size);
  return std::shared_ptr<SharedMemory>(new SharedMemory(fd.Take(), static_cast<std::byte*>(data),
                                                        size, huge ? kHugePage : kPage, false));
}

SharedMemory::~SharedMemory() {
  munmap(data_, size_);
  close(fd_);
}

}  // namespace tessera
