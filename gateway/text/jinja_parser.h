// From a template's source to its statements.
#ifndef TESSERA_GATEWAY_TEXT_JINJA_PARSER_H_
#define TESSERA_GATEWAY_TEXT_JINJA_PARSER_H_

#include <set>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "gateway/text/jinja_ast.h"

namespace tessera::jinja {

struct ParsedTemplate {
  Block body;
  // Every name that is read somewhere.
  std::set<std::string, std::less<>> names;
};

// `text_origin` is given to the template's own text and strings.
// Errors: UNIMPLEMENTED naming what the language here does not have, INVALID_ARGUMENT for broken
// syntax; both name the line.
absl::StatusOr<ParsedTemplate> Parse(std::string_view source, int text_origin);

}  // namespace tessera::jinja

#endif  // TESSERA_GATEWAY_TEXT_JINJA_PARSER_H_
