// Sizes and times as people write them in configurations.
#ifndef TESSERA_BASE_CONFIG_UNITS_H_
#define TESSERA_BASE_CONFIG_UNITS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace tessera::config {

// "4294967296", "4GiB", "1.5 GiB", "512MB": the units are B, KB, MB, GB, TB (powers of 1000) and
// KiB, MiB, GiB, TiB. Nothing for anything else, below 0, or from 2^53 on.
std::optional<uint64_t> ParseBytes(absl::string_view text);
// The shortest of the forms that is exact: "4GiB", "512MB", "1000001".
std::string FormatBytes(uint64_t bytes);

// "500ms", "15s", "1m30s", "2h", "0". Nothing for anything else: no unit, below 0, a part of a
// millisecond, or 2^53 ms and more.
std::optional<uint64_t> ParseMilliseconds(absl::string_view text);
// In the largest unit that is exact: "15s", "1500ms", "0s".
std::string FormatMilliseconds(uint64_t milliseconds);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_UNITS_H_
