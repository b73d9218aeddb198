#include "cache_server/chunk/buffer.h"

#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tessera {

void Buffer::Free::operator()(std::byte* memory) const {
  ::operator delete (memory, std::align_val_t{kAlignment});
}

absl::StatusOr<Buffer> Buffer::Allocate(size_t size) {
  Buffer buffer;
  if (size == 0) return buffer;
  void* memory = ::operator new (size, std::align_val_t{kAlignment}, std::nothrow);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the system has no memory for ", size, " bytes"));
  }
  buffer.memory_.reset(static_cast<std::byte*>(memory));
  buffer.size_ = size;
  return buffer;
}

absl::StatusOr<Buffer> Buffer::Copy() const {
  ASSIGN_OR_RETURN(Buffer copy, Allocate(size_));
  if (size_ > 0) std::memcpy(copy.memory_.get(), memory_.get(), size_);
  return copy;
}

}  // namespace tessera
