// Sizes and times as people write and read them.
#ifndef TESSERA_CACHE_SERVER_CTL_UNITS_H_
#define TESSERA_CACHE_SERVER_CTL_UNITS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace tessera::ctl {

// "0 B", "512 B", "1.5 MiB", "20.0 GiB".
std::string FormatBytes(uint64_t bytes);

// The two largest units: "0s", "12s", "3m 5s", "2h 0m", "4d 2h".
std::string FormatAge(absl::Duration age);

// A flag's value in bytes: "1048576", "1MiB", "512KiB", "2GiB", also "1M".
struct ByteSize {
  uint64_t bytes = 0;
};
bool AbslParseFlag(absl::string_view text, ByteSize* size, std::string* error);
std::string AbslUnparseFlag(ByteSize size);

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_UNITS_H_
