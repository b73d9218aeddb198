// Cuts a template's source into text, tags and the tags' tokens, with Jinja's white space control.
#ifndef TESSERA_GATEWAY_TEXT_JINJA_LEXER_H_
#define TESSERA_GATEWAY_TEXT_JINJA_LEXER_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::jinja {

struct Token {
  enum class Kind {
    kText,        // outside of tags
    kPrintBegin,  // {{
    kPrintEnd,    // }}
    kBlockBegin,  // {%
    kBlockEnd,    // %}
    kName,
    kString,  // text: unescaped
    kInt,
    kFloat,
    kOperator,
    kEnd,  // of the template; always the last
  };
  Kind kind = Kind::kEnd;
  std::string text;
  int line = 0;
};

// With trim_blocks and lstrip_blocks on, as transformers has them; comments are left out.
// Errors: INVALID_ARGUMENT naming the line.
absl::StatusOr<std::vector<Token>> Lex(std::string_view source);

}  // namespace tessera::jinja

#endif  // TESSERA_GATEWAY_TEXT_JINJA_LEXER_H_
