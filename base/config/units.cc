#include "base/config/units.h"

#include <array>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace tessera::config {
namespace {

constexpr uint64_t kLimit = uint64_t{1} << 53;  // a double still tells whole numbers apart

struct NamedUnit {
  const char* name;
  uint64_t size;
};

constexpr std::array<NamedUnit, 9> kByteUnits = {{{"TiB", uint64_t{1} << 40},
                                                  {"TB", 1'000'000'000'000},
                                                  {"GiB", 1 << 30},
                                                  {"GB", 1'000'000'000},
                                                  {"MiB", 1 << 20},
                                                  {"MB", 1'000'000},
                                                  {"KiB", 1 << 10},
                                                  {"KB", 1'000},
                                                  {"B", 1}}};
constexpr std::array<NamedUnit, 4> kTimeUnits = {
    {{"h", 3'600'000}, {"m", 60'000}, {"s", 1'000}, {"ms", 1}}};

// Digits, perhaps with a point among them: no sign, exponent or "nan".
bool IsDecimal(absl::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789.") == absl::string_view::npos &&
         text.front() != '.' && text.back() != '.';
}

std::string Format(uint64_t value, const NamedUnit& unit) {
  return absl::StrCat(value / unit.size, unit.name);
}

}  // namespace

std::optional<uint64_t> ParseBytes(absl::string_view text) {
  const size_t end = text.find_last_of("0123456789.") + 1;  // 0: there are none
  const absl::string_view number = text.substr(0, end);
  const absl::string_view name = absl::StripLeadingAsciiWhitespace(text.substr(end));
  uint64_t whole = 0;
  if (name.empty()) {
    if (!IsDecimal(number) || !absl::SimpleAtoi(number, &whole) || whole >= kLimit) return {};
    return whole;
  }
  for (const NamedUnit& unit : kByteUnits) {
    double value = 0;
    if (name != unit.name) continue;
    if (!IsDecimal(number) || !absl::SimpleAtod(number, &value)) return {};
    value = std::round(value * static_cast<double>(unit.size));
    if (value >= static_cast<double>(kLimit)) return {};
    return static_cast<uint64_t>(value);
  }
  return {};
}

std::string FormatBytes(uint64_t bytes) {
  if (bytes == 0) return "0";
  std::string shortest = absl::StrCat(bytes);
  for (const NamedUnit& unit : kByteUnits) {
    if (bytes % unit.size != 0 || unit.size == 1) continue;
    if (std::string text = Format(bytes, unit); text.size() <= shortest.size()) shortest = text;
  }
  return shortest;
}

std::optional<uint64_t> ParseMilliseconds(absl::string_view text) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration < absl::ZeroDuration() ||
      duration >= absl::Milliseconds(kLimit) ||
      duration != absl::Trunc(duration, absl::Milliseconds(1))) {
    return {};
  }
  return static_cast<uint64_t>(absl::ToInt64Milliseconds(duration));
}

std::string FormatMilliseconds(uint64_t milliseconds) {
  if (milliseconds == 0) return "0s";
  for (const NamedUnit& unit : kTimeUnits) {
    if (milliseconds % unit.size == 0) return Format(milliseconds, unit);
  }
  return Format(milliseconds, kTimeUnits.back());  // not reached: all are whole milliseconds
}

}  // namespace tessera::config
