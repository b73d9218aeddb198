// A fuzzer's bytes, taken from the front. When they are used up, only zeros come.
#ifndef TESSERA_TESTS_FUZZ_INPUT_H_
#define TESSERA_TESTS_FUZZ_INPUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"

namespace tessera::fuzz {

class Input {
 public:
  Input(const uint8_t* bytes, size_t size)
      : rest_(reinterpret_cast<const std::byte*>(bytes), size) {}

  bool empty() const { return rest_.empty(); }

  // At most `most` bytes; fewer when there are no more.
  absl::Span<const std::byte> Bytes(size_t most) {
    const absl::Span<const std::byte> bytes = rest_.subspan(0, std::min(most, rest_.size()));
    rest_.remove_prefix(bytes.size());
    return bytes;
  }

  // A number of this width, little endian.
  template <typename T>
  T Number() {
    T number = 0;
    const absl::Span<const std::byte> bytes = Bytes(sizeof(T));
    if (!bytes.empty()) std::memcpy(&number, bytes.data(), bytes.size());
    return number;
  }
  uint8_t Byte() { return Number<uint8_t>(); }

 private:
  absl::Span<const std::byte> rest_;
};

}  // namespace tessera::fuzz

#endif  // TESSERA_TESTS_FUZZ_INPUT_H_
