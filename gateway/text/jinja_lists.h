// Filters and methods on lists and maps.
#ifndef TESSERA_GATEWAY_TEXT_JINJA_LISTS_H_
#define TESSERA_GATEWAY_TEXT_JINJA_LISTS_H_

#include <string_view>

#include "gateway/text/jinja_builtins.h"

namespace tessera::jinja {

// Null for an unknown name.
Builtin FindListFilter(std::string_view name);
Builtin FindMapMethod(std::string_view name);

}  // namespace tessera::jinja

#endif  // TESSERA_GATEWAY_TEXT_JINJA_LISTS_H_
