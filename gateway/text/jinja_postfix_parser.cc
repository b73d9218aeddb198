// The part of ExpressionParser behind a value: attributes, subscripts, calls, filters, tests.
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/jinja_expression_parser.h"

namespace tessera::jinja {
namespace {

using Kind = Token::Kind;
using Node = Expression::Kind;

}  // namespace

absl::StatusOr<ExpressionPtr> ExpressionParser::ParsePostfix(ExpressionPtr value) {
  while (true) {
    RETURN_IF_ERROR(CheckLength());
    if (IsOperator(".")) {
      ASSIGN_OR_RETURN(value, ParseDot(std::move(value)));
    } else if (IsOperator("[")) {
      ASSIGN_OR_RETURN(value, ParseSubscript(std::move(value)));
    } else if (IsOperator("(")) {
      return Unsupported("a call of something other than a known function or method");
    } else {
      return value;
    }
  }
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseDot(ExpressionPtr value) {
  ExpressionPtr node = Make(Node::kAttribute);
  Take();
  if (Peek().kind == Kind::kInt) {  // a.0 is a[0]
    node->kind = Node::kIndex;
    node->children.push_back(std::move(value));
    ASSIGN_OR_RETURN(ExpressionPtr index, ParseLiteral());
    node->children.push_back(std::move(index));
    return node;
  }
  ASSIGN_OR_RETURN(node->name, ExpectName());
  node->children.push_back(std::move(value));
  if (!IsOperator("(")) return node;
  node->kind = Node::kCall;
  node->builtin = FindMethod(node->name);
  if (node->builtin == nullptr) return Unsupported(Concat("the method ", node->name, "()"));
  RETURN_IF_ERROR(ParseArguments(node.get()));
  return node;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseSubscript(ExpressionPtr value) {
  ExpressionPtr node = Make(Node::kIndex);
  Take();
  node->children.push_back(std::move(value));
  for (size_t part = 0; part < 3 && !IsOperator("]"); ++part) {
    ExpressionPtr bound;
    if (!IsOperator(":")) {
      ASSIGN_OR_RETURN(bound, ParseExpression());
    }
    node->children.push_back(std::move(bound));
    if (IsOperator(":")) node->kind = Node::kSlice;
    if (!TakeOperator(":")) break;
  }
  if (IsOperator(",")) return Unsupported("a subscript of several values");
  RETURN_IF_ERROR(Expect("]"));
  if (node->children.size() < 2) return Broken("an empty subscript");
  if (node->kind == Node::kSlice) node->children.resize(4);
  return node;
}

absl::Status ExpressionParser::ParseArguments(Expression* call) {
  RETURN_IF_ERROR(Expect("("));
  while (!IsOperator(")")) {
    if (IsOperator("*") || IsOperator("**")) return Unsupported("an unpacked argument");
    if (Peek().kind == Kind::kName && Peek(1).kind == Kind::kOperator && Peek(1).text == "=") {
      std::string name = Take().text;
      Take();
      ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      call->named.emplace_back(std::move(name), std::move(value));
    } else {
      ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      call->children.push_back(std::move(value));
    }
    if (!TakeOperator(",")) break;
  }
  return Expect(")");
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseFilters(ExpressionPtr value) {
  while (true) {
    RETURN_IF_ERROR(CheckLength());
    if (IsOperator("|")) {
      ASSIGN_OR_RETURN(value, ParseFilter(std::move(value)));
    } else if (IsName("is")) {
      ASSIGN_OR_RETURN(value, ParseTest(std::move(value)));
    } else {
      return value;
    }
  }
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseFilter(ExpressionPtr value) {
  ExpressionPtr node = Make(Node::kCall);
  Take();
  ASSIGN_OR_RETURN(node->name, ExpectName());
  node->builtin = FindFilter(node->name);
  if (node->builtin == nullptr) return Unsupported(Concat("the filter ", node->name));
  node->children.push_back(std::move(value));
  if (IsOperator("(")) RETURN_IF_ERROR(ParseArguments(node.get()));
  return node;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseTest(ExpressionPtr value) {
  ExpressionPtr node = Make(Node::kTest);
  Take();
  const bool negated = TakeName("not");
  ASSIGN_OR_RETURN(node->name, ExpectName());
  node->builtin = FindTest(node->name);
  if (node->builtin == nullptr) return Unsupported(Concat("the test ", node->name));
  node->children.push_back(std::move(value));
  const bool word = IsName("else") || IsName("or") || IsName("and") || IsName("is") ||
                    IsName("if") || IsName("in") || IsName("not");
  const bool bare = Peek().kind == Kind::kString || Peek().kind == Kind::kInt ||
                    Peek().kind == Kind::kFloat || IsOperator("[") || IsOperator("{") ||
                    (Peek().kind == Kind::kName && !word);
  if (IsOperator("(")) {
    RETURN_IF_ERROR(ParseArguments(node.get()));
  } else if (bare) {  // "x is divisibleby 3"
    ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
    ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    node->children.push_back(std::move(argument));
  }
  if (!negated) return node;
  ExpressionPtr inverse = Make(Node::kNot);
  inverse->children.push_back(std::move(node));
  return inverse;
}

}  // namespace tessera::jinja
