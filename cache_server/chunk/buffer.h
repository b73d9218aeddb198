// Memory for KV bytes: one owner, any number of views.
#ifndef TESSERA_CACHE_SERVER_CHUNK_BUFFER_H_
#define TESSERA_CACHE_SERVER_CHUNK_BUFFER_H_

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tessera {

// What a reader and a writer see of a Buffer. A view does not keep its buffer alive.
using BufferView = absl::Span<const std::byte>;
using MutableBufferView = absl::Span<std::byte>;

// Owns a stretch of page-aligned memory, not initialised. Move-only; copying has a name.
// A const Buffer may be read by many threads.
class Buffer {
 public:
  // Page alignment, so that a tier may read with O_DIRECT and a GPU may register the memory.
  static constexpr size_t kAlignment = 4096;

  // An empty buffer.
  Buffer() = default;

  // RESOURCE_EXHAUSTED when the system has no memory for it. Size 0 gives an empty buffer.
  static absl::StatusOr<Buffer> Allocate(size_t size);

  Buffer(Buffer&&) = default;
  Buffer& operator=(Buffer&&) = default;

  // A new buffer with the same bytes. RESOURCE_EXHAUSTED as Allocate.
  absl::StatusOr<Buffer> Copy() const;

  size_t size() const { return size_; }
  BufferView view() const { return {memory_.get(), size_}; }
  MutableBufferView mutable_view() { return {memory_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };

  std::unique_ptr<std::byte[], Free> memory_;
  size_t size_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CHUNK_BUFFER_H_
