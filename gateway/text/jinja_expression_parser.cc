#include "gateway/text/jinja_expression_parser.h"

#include <array>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"

namespace tessera::jinja {
namespace {

using Kind = Token::Kind;
using Node = Expression::Kind;

// Deeper nesting is no template of ours: it would only exhaust the stack.
constexpr int kLargestDepth = 200;
constexpr int kLargestNodes = 4000;

}  // namespace

const Token& ExpressionParser::Peek(size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}

Token ExpressionParser::Take() {
  Token token = Peek();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool ExpressionParser::Is(Kind kind, std::string_view text) const {
  return Peek().kind == kind && Peek().text == text;
}

bool ExpressionParser::TakeOperator(std::string_view text) {
  if (!IsOperator(text)) return false;
  Take();
  return true;
}

bool ExpressionParser::TakeName(std::string_view text) {
  if (!IsName(text)) return false;
  Take();
  return true;
}

absl::Status ExpressionParser::Expect(std::string_view operator_text) {
  if (TakeOperator(operator_text)) return absl::OkStatus();
  return Broken(Concat("expected '", operator_text, "' before '", Peek().text, "'"));
}

absl::StatusOr<std::string> ExpressionParser::ExpectName() {
  if (Peek().kind != Kind::kName) return Broken(Concat("expected a name, not '", Peek().text, "'"));
  return Take().text;
}

absl::Status ExpressionParser::Broken(std::string_view what) const {
  return absl::InvalidArgumentError(Concat("chat template, line ", Peek().line, ": ", what));
}

absl::Status ExpressionParser::Unsupported(std::string_view what) const {
  return absl::UnimplementedError(
      Concat("chat template, line ", Peek().line, ": ", what, " is not supported"));
}

absl::Status ExpressionParser::CheckLength() const {
  if (nodes_ > kLargestNodes) return Unsupported("an expression this long");
  return absl::OkStatus();
}

ExpressionPtr ExpressionParser::Make(Node kind) {
  ++nodes_;
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = Peek().line;
  return node;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseTuple(bool conditional) {
  nodes_ = 0;
  ASSIGN_OR_RETURN(ExpressionPtr first, ParseExpression(conditional));
  if (!IsOperator(",")) return first;
  ExpressionPtr tuple = Make(Node::kList);
  tuple->children.push_back(std::move(first));
  while (TakeOperator(",")) {
    const bool ends = Peek().kind == Kind::kBlockEnd || Peek().kind == Kind::kPrintEnd;
    if (ends || IsOperator(")") || IsOperator("=")) break;
    ASSIGN_OR_RETURN(ExpressionPtr next, ParseExpression(conditional));
    tuple->children.push_back(std::move(next));
  }
  return tuple;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseExpression(bool conditional) {
  if (++depth_ > kLargestDepth) return Unsupported("nesting this deep");
  ASSIGN_OR_RETURN(ExpressionPtr value, ParseOr());
  while (conditional && TakeName("if")) {
    ExpressionPtr node = Make(Node::kConditional);
    ASSIGN_OR_RETURN(ExpressionPtr condition, ParseOr());
    ExpressionPtr otherwise;
    if (TakeName("else")) {
      ASSIGN_OR_RETURN(otherwise, ParseExpression());
    }
    node->children.push_back(std::move(value));
    node->children.push_back(std::move(condition));
    node->children.push_back(std::move(otherwise));
    value = std::move(node);
  }
  --depth_;
  return value;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseOr() {
  ASSIGN_OR_RETURN(ExpressionPtr left, ParseAnd());
  while (TakeName("or")) {
    ExpressionPtr node = Make(Node::kOr);
    node->children.push_back(std::move(left));
    ASSIGN_OR_RETURN(ExpressionPtr right, ParseAnd());
    node->children.push_back(std::move(right));
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseAnd() {
  ASSIGN_OR_RETURN(ExpressionPtr left, ParseNot());
  while (TakeName("and")) {
    ExpressionPtr node = Make(Node::kAnd);
    node->children.push_back(std::move(left));
    ASSIGN_OR_RETURN(ExpressionPtr right, ParseNot());
    node->children.push_back(std::move(right));
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseNot() {
  if (++depth_ > kLargestDepth) return Unsupported("nesting this deep");
  absl::StatusOr<ExpressionPtr> result;
  if (IsName("not")) {
    ExpressionPtr node = Make(Node::kNot);
    Take();
    ASSIGN_OR_RETURN(ExpressionPtr value, ParseNot());
    node->children.push_back(std::move(value));
    result = std::move(node);
  } else {
    result = ParseCompare();
  }
  --depth_;
  return result;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseCompare() {
  ASSIGN_OR_RETURN(ExpressionPtr left, ParseBinary(0));
  constexpr std::array<std::string_view, 6> kCompares = {"==", "!=", "<", "<=", ">", ">="};
  bool chained = false;
  while (true) {
    std::string name;
    for (const std::string_view compare : kCompares) {
      if (IsOperator(compare)) name = std::string(compare);
    }
    if (IsName("in")) name = "in";
    if (IsName("not") && Peek(1).kind == Kind::kName && Peek(1).text == "in") name = "not in";
    if (name.empty()) return left;
    if (chained) return Unsupported("a chain of comparisons");
    chained = true;
    ExpressionPtr node = Make(Node::kCompare);
    Take();
    if (name == "not in") Take();
    node->name = name;
    node->children.push_back(std::move(left));
    ASSIGN_OR_RETURN(ExpressionPtr right, ParseBinary(0));
    node->children.push_back(std::move(right));
    left = std::move(node);
  }
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseBinary(size_t level) {
  static const std::array<std::vector<std::string_view>, 3> kLevels = {
      {{"+", "-"}, {"~"}, {"*", "/", "//", "%"}}};
  if (level == kLevels.size()) return ParseUnary(true);
  ASSIGN_OR_RETURN(ExpressionPtr left, ParseBinary(level + 1));
  while (true) {
    std::string name;
    for (const std::string_view symbol : kLevels[level]) {
      if (IsOperator(symbol)) name = std::string(symbol);
    }
    if (name.empty()) return left;
    ExpressionPtr node = Make(Node::kBinary);
    Take();
    node->name = name;
    node->children.push_back(std::move(left));
    ASSIGN_OR_RETURN(ExpressionPtr right, ParseBinary(level + 1));
    node->children.push_back(std::move(right));
    left = std::move(node);
  }
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseUnary(bool with_filters) {
  if (++depth_ > kLargestDepth) return Unsupported("nesting this deep");
  RETURN_IF_ERROR(CheckLength());
  ExpressionPtr value;
  if (IsOperator("-")) {
    ExpressionPtr node = Make(Node::kNegate);
    Take();
    ASSIGN_OR_RETURN(ExpressionPtr operand, ParseUnary(false));
    node->children.push_back(std::move(operand));
    value = std::move(node);
  } else {
    ASSIGN_OR_RETURN(value, ParsePrimary());
  }
  ASSIGN_OR_RETURN(value, ParsePostfix(std::move(value)));
  if (IsOperator("**")) return Unsupported("the operator **");
  if (with_filters) {
    ASSIGN_OR_RETURN(value, ParseFilters(std::move(value)));
  }
  --depth_;
  return value;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParsePrimary() {
  if (Peek().kind == Kind::kName) return ParseName();
  if (IsOperator("{")) return ParseMap();
  if (IsOperator("[") || IsOperator("(")) return ParseBrackets();
  return ParseLiteral();
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseLiteral() {
  ExpressionPtr node = Make(Node::kLiteral);
  if (Peek().kind == Kind::kString) {
    // Neighbouring strings are one string.
    std::string text;
    while (Peek().kind == Kind::kString) text += Take().text;
    node->literal_text = TrackedText(text, text_origin_);
    node->literal.kind = Value::Kind::kText;
    return node;
  }
  const Token token = Take();
  int64_t integer;
  double number;
  if (token.kind == Kind::kInt && absl::SimpleAtoi(token.text, &integer)) {
    node->literal = Value::Int(integer);
  } else if (token.kind == Kind::kFloat && absl::SimpleAtod(token.text, &number)) {
    node->literal = Value::Float(number);
  } else {
    return Broken(Concat("unexpected '", token.text, "'"));
  }
  return node;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseName() {
  ExpressionPtr node = Make(Node::kLiteral);
  const std::string name = Take().text;
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    node->literal = Value::Bool(name == "true" || name == "True");
    return node;
  }
  if (name == "none" || name == "None") {
    node->literal = Value::None();
    return node;
  }
  if (!IsOperator("(")) {
    node->kind = Node::kName;
    node->name = name;
    names_.insert(name);
    return node;
  }
  node->kind = name == "namespace" ? Node::kNamespace : Node::kCall;
  node->name = name;
  node->builtin = FindFunction(name);
  if (node->kind == Node::kCall && node->builtin == nullptr) {
    return Unsupported(Concat("the function ", name, "()"));
  }
  RETURN_IF_ERROR(ParseArguments(node.get()));
  return node;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseBrackets() {
  ExpressionPtr list = Make(Node::kList);
  const bool round = Take().text == "(";
  const std::string_view close = round ? ")" : "]";
  bool comma = false;
  while (!IsOperator(close)) {
    ASSIGN_OR_RETURN(ExpressionPtr next, ParseExpression());
    list->children.push_back(std::move(next));
    if (!TakeOperator(",")) break;
    comma = true;
  }
  RETURN_IF_ERROR(Expect(close));
  // Round brackets make a tuple by its comma only.
  if (round && !comma && list->children.size() == 1) return std::move(list->children[0]);
  return list;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseMap() {
  ExpressionPtr map = Make(Node::kMap);
  Take();
  while (!IsOperator("}")) {
    ASSIGN_OR_RETURN(ExpressionPtr key, ParseExpression());
    RETURN_IF_ERROR(Expect(":"));
    ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
    map->children.push_back(std::move(key));
    map->children.push_back(std::move(value));
    if (!TakeOperator(",")) break;
  }
  RETURN_IF_ERROR(Expect("}"));
  return map;
}

}  // namespace tessera::jinja
