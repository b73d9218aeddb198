// The part of Renderer that computes expressions.
#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/jinja_renderer.h"

namespace tessera::jinja {

using Kind = Value::Kind;
using Node = Expression::Kind;

absl::StatusOr<Value> Renderer::Evaluate(const Expression& expression) {
  ++steps_;
  auto value = EvaluateNode(expression);
  // Before anyone makes more of it.
  if (value.ok() && pool_->exhausted()) return Exhausted();
  return value;
}

absl::StatusOr<Value> Renderer::EvaluateNode(const Expression& expression) {
  switch (expression.kind) {
    case Node::kLiteral:
      if (expression.literal.is(Kind::kText)) return Value::Text(&expression.literal_text);
      return expression.literal;
    case Node::kName:
      return Find(expression.name);
    case Node::kAttribute: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*expression.children[0]));
      return Attribute(value, expression.name);
    }
    case Node::kIndex:
      return EvaluateIndex(expression);
    case Node::kSlice:
      return EvaluateSlice(expression);
    case Node::kList:
      return EvaluateList(expression);
    case Node::kMap:
      return EvaluateMap(expression);
    case Node::kNegate: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*expression.children[0]));
      return Combine(pool_, "-", Value::Int(0), value);
    }
    case Node::kNot:
    case Node::kAnd:
    case Node::kOr:
    case Node::kConditional:
      return EvaluateLogic(expression);
    case Node::kBinary:
      return EvaluateBinary(expression);
    case Node::kCompare:
      return EvaluateCompare(expression);
    case Node::kCall:
    case Node::kTest:
      return EvaluateCall(expression);
    case Node::kNamespace:
      return EvaluateNamespace(expression);
  }
  return Value();
}

absl::StatusOr<Value> Renderer::EvaluateIndex(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value value, Evaluate(*expression.children[0]));
  ASSIGN_OR_RETURN(const Value index, Evaluate(*expression.children[1]));
  if (index.is(Kind::kText)) return Attribute(value, index.text->view());
  if (value.is(Kind::kUndefined)) return Attribute(value, "[...]");
  const bool walked = value.is(Kind::kList) || value.is(Kind::kText);
  if (!walked || !index.IsNumber() || index.is(Kind::kFloat)) return Value();
  return Element(pool_, value, index.AsInt());
}

absl::StatusOr<Value> Renderer::EvaluateSlice(const Expression& expression) {
  std::vector<Value> parts;
  for (const ExpressionPtr& child : expression.children) {
    Value part;
    if (child != nullptr) {
      ASSIGN_OR_RETURN(part, Evaluate(*child));
    }
    parts.push_back(part);
  }
  return Slice(pool_, parts[0], parts[1], parts[2], parts[3]);
}

absl::StatusOr<Value> Renderer::EvaluateList(const Expression& expression) {
  List list;
  for (const ExpressionPtr& child : expression.children) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*child));
    list.push_back(value);
  }
  return pool_->MakeList(std::move(list));
}

absl::StatusOr<Value> Renderer::EvaluateMap(const Expression& expression) {
  Map map;
  for (size_t i = 0; i + 1 < expression.children.size(); i += 2) {
    ASSIGN_OR_RETURN(const Value key, Evaluate(*expression.children[i]));
    ASSIGN_OR_RETURN(const Value value, Evaluate(*expression.children[i + 1]));
    if (!key.is(Kind::kText)) return TypeError("is a key of a dict", key);
    map.emplace_back(key.text, value);
  }
  return pool_->MakeMap(std::move(map));
}

absl::StatusOr<Value> Renderer::EvaluateLogic(const Expression& expression) {
  const bool conditional = expression.kind == Node::kConditional;
  ASSIGN_OR_RETURN(const Value first, Evaluate(*expression.children[conditional ? 1 : 0]));
  const bool truth = IsTrue(first);
  if (expression.kind == Node::kNot) return Value::Bool(!truth);
  if (conditional) {
    const ExpressionPtr& chosen = expression.children[truth ? 0 : 2];
    return chosen == nullptr ? Value() : Evaluate(*chosen);
  }
  if (truth == (expression.kind == Node::kOr)) return first;
  return Evaluate(*expression.children[1]);
}

absl::StatusOr<Value> Renderer::EvaluateBinary(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value left, Evaluate(*expression.children[0]));
  ASSIGN_OR_RETURN(const Value right, Evaluate(*expression.children[1]));
  return Combine(pool_, expression.name, left, right);
}

absl::StatusOr<Value> Renderer::EvaluateCompare(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value left, Evaluate(*expression.children[0]));
  ASSIGN_OR_RETURN(const Value right, Evaluate(*expression.children[1]));
  const std::string& name = expression.name;
  pool_->Spend(std::min(left.weight, right.weight));
  if (name == "==") return Value::Bool(AreEqual(left, right));
  if (name == "!=") return Value::Bool(!AreEqual(left, right));
  if (name == "in" || name == "not in") {
    ASSIGN_OR_RETURN(const bool found, Contains(pool_, right, left));
    return Value::Bool(found == (name == "in"));
  }
  ASSIGN_OR_RETURN(const int order, Order(left, right));
  if (name == "<") return Value::Bool(order < 0);
  if (name == "<=") return Value::Bool(order <= 0);
  return Value::Bool(name == ">" ? order > 0 : order >= 0);
}

absl::StatusOr<Value> Renderer::EvaluateCall(const Expression& expression) {
  Call call = {pool_, now_, {}, {}};
  for (const ExpressionPtr& child : expression.children) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*child));
    call.arguments.push_back(value);
  }
  for (const auto& [name, child] : expression.named) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*child));
    call.named.emplace_back(name, value);
  }
  return Invoke(expression.builtin, call);
}

absl::StatusOr<Value> Renderer::EvaluateNamespace(const Expression& expression) {
  Map map;
  for (const auto& [name, child] : expression.named) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*child));
    map.emplace_back(pool_->Text(name, 0).text, value);
  }
  return pool_->MakeNamespace(std::move(map));
}

}  // namespace tessera::jinja
