// Text of configurations: as it may come in, and as it is shown.
#ifndef TESSERA_BASE_CONFIG_TEXT_H_
#define TESSERA_BASE_CONFIG_TEXT_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace tessera::config {

// UTF-8 without a zero byte.
bool IsPlainUtf8(absl::string_view text);

// For an error message: in single quotes, cut off when it is long, what is not printable escaped.
std::string Quoted(absl::string_view text);

// A double-quoted YAML scalar that stands for exactly this text, which must be plain UTF-8.
std::string YamlString(absl::string_view text);

// In lines of at most `width` columns, each behind `indent`, and each ended.
std::string Wrapped(absl::string_view text, absl::string_view indent, size_t width);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_TEXT_H_
