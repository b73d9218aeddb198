// absl::StrCat for std::string_view, which Debian's Abseil (built as C++14) does not take.
#ifndef TESSERA_GATEWAY_TEXT_CONCAT_H_
#define TESSERA_GATEWAY_TEXT_CONCAT_H_

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace tessera {

// Joins strings and numbers.
template <typename... Parts>
std::string Concat(const Parts&... parts) {
  const auto convert = [](const auto& part) {
    if constexpr (std::is_convertible_v<decltype(part), std::string_view>) {
      const std::string_view view = part;
      return absl::string_view(view.data(), view.size());
    } else {
      return part;
    }
  };
  return absl::StrCat(convert(parts)...);
}

// Appends them to *text.
template <typename... Parts>
void Extend(std::string* text, const Parts&... parts) {
  *text += Concat(parts...);
}

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_CONCAT_H_
