// Filters and methods on text. Every letter keeps its origin.
#ifndef TESSERA_GATEWAY_TEXT_JINJA_STRINGS_H_
#define TESSERA_GATEWAY_TEXT_JINJA_STRINGS_H_

#include <string_view>

#include "gateway/text/jinja_builtins.h"

namespace tessera::jinja {

// Origin of text that a rendering makes of values that are no text: never the template's, so that
// nothing in it counts as a special token. Equal to kFromOther of chat_template.h.
inline constexpr int kOtherOrigin = -2;

// Null for an unknown name.
Builtin FindTextFilter(std::string_view name);
Builtin FindTextMethod(std::string_view name);

}  // namespace tessera::jinja

#endif  // TESSERA_GATEWAY_TEXT_JINJA_STRINGS_H_
