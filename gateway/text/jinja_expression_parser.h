// Parses the expressions inside a template's tags.
#ifndef TESSERA_GATEWAY_TEXT_JINJA_EXPRESSION_PARSER_H_
#define TESSERA_GATEWAY_TEXT_JINJA_EXPRESSION_PARSER_H_

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/text/jinja_ast.h"
#include "gateway/text/jinja_lexer.h"

namespace tessera::jinja {

// A cursor over tokens, and Jinja's grammar of expressions on top of it.
class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, int text_origin)
      : tokens_(std::move(tokens)), text_origin_(text_origin) {}

  const Token& Peek(size_t ahead = 0) const;
  Token Take();
  bool Is(Token::Kind kind, std::string_view text) const;
  bool IsOperator(std::string_view text) const { return Is(Token::Kind::kOperator, text); }
  bool IsName(std::string_view text) const { return Is(Token::Kind::kName, text); }
  // Takes the next token if it is that operator or name.
  bool TakeOperator(std::string_view text);
  bool TakeName(std::string_view text);
  absl::Status Expect(std::string_view operator_text);
  absl::StatusOr<std::string> ExpectName();

  // A whole expression; without `conditional`, "a if b else c" ends before the if.
  absl::StatusOr<ExpressionPtr> ParseExpression(bool conditional = true);
  // Also "a, b" without brackets.
  absl::StatusOr<ExpressionPtr> ParseTuple(bool conditional = true);

  absl::Status Broken(std::string_view what) const;
  absl::Status Unsupported(std::string_view what) const;

  int text_origin() const { return text_origin_; }
  const std::set<std::string, std::less<>>& names() const { return names_; }

 private:
  ExpressionPtr Make(Expression::Kind kind);
  // An error when the expression has become too long: rows of operators nest, too.
  absl::Status CheckLength() const;
  absl::StatusOr<ExpressionPtr> ParseOr();
  absl::StatusOr<ExpressionPtr> ParseAnd();
  absl::StatusOr<ExpressionPtr> ParseNot();
  absl::StatusOr<ExpressionPtr> ParseCompare();
  // One level of left-associative binary operators, from the weakest: "+ -", "~", "* / // %".
  absl::StatusOr<ExpressionPtr> ParseBinary(size_t level);
  absl::StatusOr<ExpressionPtr> ParseUnary(bool with_filters);
  absl::StatusOr<ExpressionPtr> ParsePrimary();
  absl::StatusOr<ExpressionPtr> ParseLiteral();
  absl::StatusOr<ExpressionPtr> ParseName();
  absl::StatusOr<ExpressionPtr> ParseBrackets();
  absl::StatusOr<ExpressionPtr> ParseMap();
  absl::StatusOr<ExpressionPtr> ParsePostfix(ExpressionPtr value);
  absl::StatusOr<ExpressionPtr> ParseDot(ExpressionPtr value);
  absl::StatusOr<ExpressionPtr> ParseSubscript(ExpressionPtr value);
  absl::StatusOr<ExpressionPtr> ParseFilters(ExpressionPtr value);
  absl::StatusOr<ExpressionPtr> ParseFilter(ExpressionPtr value);
  absl::StatusOr<ExpressionPtr> ParseTest(ExpressionPtr value);
  absl::Status ParseArguments(Expression* call);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int text_origin_;
  int depth_ = 0;
  int nodes_ = 0;  // of the tag's expression so far
  std::set<std::string, std::less<>> names_;
};

}  // namespace tessera::jinja

#endif  // TESSERA_GATEWAY_TEXT_JINJA_EXPRESSION_PARSER_H_
