// Between the views of std and Abseil: in Debian's build these are two types.
#ifndef TESSERA_GATEWAY_OPENAI_VIEWS_H_
#define TESSERA_GATEWAY_OPENAI_VIEWS_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace tessera::openai {

inline absl::string_view AbslView(std::string_view text) { return {text.data(), text.size()}; }

inline std::string_view StdView(absl::string_view text) { return {text.data(), text.size()}; }

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_VIEWS_H_
