#include "gateway/text/jinja_renderer.h"

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/jinja_strings.h"

namespace tessera::jinja {
namespace {

using Kind = Value::Kind;
using Node = Statement::Kind;

// A template that needs more than this for one prompt does not end.
constexpr size_t kLargestSteps = 5'000'000;

absl::Status AtLine(const absl::Status& status, int line) {
  if (status.message().find("(line ") != absl::string_view::npos) return status;
  return absl::Status(status.code(), Concat(std::string(status.message()), " (line ", line, ")"));
}

}  // namespace

void Renderer::Set(std::string_view name, Value value) {
  for (auto& [key, old] : scopes_.back()) {
    if (key == name) {
      old = value;
      return;
    }
  }
  scopes_.back().emplace_back(name, value);
}

Value Renderer::Find(std::string_view name) {
  if (name == "loop" && !loops_.empty()) return LoopVariable();
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    for (const auto& [key, value] : *scope) {
      if (key == name) return value;
    }
  }
  // Templates ask "strftime_now is defined" before they call it.
  if (FindFunction(name) != nullptr) return Value::Bool(true);
  return Value();
}

absl::Status Renderer::Step(const TrackedText& out) {
  if (++steps_ > kLargestSteps || pool_->exhausted() || out.size() > Pool::kLargestTotal) {
    return Exhausted();
  }
  return absl::OkStatus();
}

absl::StatusOr<TrackedText> Renderer::Render(const Block& block) {
  TrackedText out;
  ASSIGN_OR_RETURN(const Flow flow, RunBlock(block, &out));
  (void)flow;
  return out;
}

absl::StatusOr<Renderer::Flow> Renderer::RunBlock(const Block& block, TrackedText* out) {
  for (const Statement& statement : block) {
    RETURN_IF_ERROR(Step(*out));
    auto flow = RunStatement(statement, out);
    if (!flow.ok()) return AtLine(flow.status(), statement.line);
    if (*flow != Flow::kNext) return *flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Renderer::Flow> Renderer::RunStatement(const Statement& statement,
                                                      TrackedText* out) {
  switch (statement.kind) {
    case Node::kText:
      out->Append(statement.text);
      return Flow::kNext;
    case Node::kPrint: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.value));
      pool_->Spend(value.weight);
      out->Append(ToText(value, kOtherOrigin));
      return Flow::kNext;
    }
    case Node::kFor:
      return RunFor(statement, out);
    case Node::kIf: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.value));
      return RunBlock(IsTrue(value) ? statement.body : statement.otherwise, out);
    }
    case Node::kSet:
      RETURN_IF_ERROR(RunSet(statement));
      return Flow::kNext;
    case Node::kSetBlock: {
      TrackedText text;
      ASSIGN_OR_RETURN(const Flow flow, RunBlock(statement.body, &text));
      RETURN_IF_ERROR(Bind(statement.names, pool_->Text(std::move(text))));
      return flow;
    }
    case Node::kGeneration:
      return RunBlock(statement.body, out);
    case Node::kBreak:
      return Flow::kBreak;
    case Node::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::Status Renderer::Bind(const std::vector<std::string>& names, const Value& value) {
  if (names.size() == 1) {
    Set(names[0], value);
    return absl::OkStatus();
  }
  if (!value.is(Kind::kList) || value.list->size() != names.size()) {
    return TypeError(Concat("is no row of ", names.size(), " values"), value);
  }
  for (size_t i = 0; i < names.size(); ++i) Set(names[i], (*value.list)[i]);
  return absl::OkStatus();
}

absl::Status Renderer::RunSet(const Statement& set) {
  ASSIGN_OR_RETURN(const Value value, Evaluate(*set.value));
  if (set.attribute.empty()) return Bind(set.names, value);
  const Value space = Find(set.names[0]);
  if (!space.is(Kind::kNamespace)) return TypeError("has no attributes to set", space);
  for (auto& [key, old] : *space.space) {
    if (key->view() == set.attribute) {
      old = value;
      return absl::OkStatus();
    }
  }
  space.space->emplace_back(pool_->Text(set.attribute, 0).text, value);
  return absl::OkStatus();
}

// The loop's condition sees the loop's names, and chooses before the first turn.
absl::StatusOr<List> Renderer::ChooseElements(const Statement& loop) {
  ASSIGN_OR_RETURN(const Value value, Evaluate(*loop.value));
  ASSIGN_OR_RETURN(List elements, Elements(pool_, value));
  if (loop.condition == nullptr) return elements;
  List chosen;
  for (const Value& element : elements) {
    scopes_.emplace_back();
    RETURN_IF_ERROR(Bind(loop.names, element));
    ASSIGN_OR_RETURN(const Value wanted, Evaluate(*loop.condition));
    scopes_.pop_back();
    if (IsTrue(wanted)) chosen.push_back(element);
  }
  return chosen;
}

absl::StatusOr<Renderer::Flow> Renderer::RunFor(const Statement& loop, TrackedText* out) {
  ASSIGN_OR_RETURN(const List elements, ChooseElements(loop));
  if (elements.empty()) return RunBlock(loop.otherwise, out);
  for (size_t i = 0; i < elements.size(); ++i) {
    RETURN_IF_ERROR(Step(*out));
    scopes_.emplace_back();  // what a turn sets is gone with it
    RETURN_IF_ERROR(Bind(loop.names, elements[i]));
    loops_.push_back({&elements, i});
    ASSIGN_OR_RETURN(const Flow flow, RunBlock(loop.body, out));
    loops_.pop_back();
    scopes_.pop_back();
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

Value Renderer::LoopVariable() {
  // Templates ask for it often: names are made once.
  static const std::array<TrackedText, 9> kNames = {{{"index", kOtherOrigin},
                                                     {"index0", kOtherOrigin},
                                                     {"revindex", kOtherOrigin},
                                                     {"revindex0", kOtherOrigin},
                                                     {"first", kOtherOrigin},
                                                     {"last", kOtherOrigin},
                                                     {"length", kOtherOrigin},
                                                     {"previtem", kOtherOrigin},
                                                     {"nextitem", kOtherOrigin}}};
  const List& elements = *loops_.back().elements;
  const size_t index = loops_.back().index;
  const auto count = static_cast<int64_t>(elements.size());
  const auto at = static_cast<int64_t>(index);
  const std::array<Value, 9> values = {Value::Int(at + 1),
                                       Value::Int(at),
                                       Value::Int(count - at),
                                       Value::Int(count - at - 1),
                                       Value::Bool(at == 0),
                                       Value::Bool(at + 1 == count),
                                       Value::Int(count),
                                       at > 0 ? elements[index - 1] : Value(),
                                       at + 1 < count ? elements[index + 1] : Value()};
  Map map;
  for (size_t i = 0; i < values.size(); ++i) map.emplace_back(&kNames[i], values[i]);
  return pool_->MakeMap(std::move(map));
}

}  // namespace tessera::jinja
