// Runs a parsed template.
#ifndef TESSERA_GATEWAY_TEXT_JINJA_RENDERER_H_
#define TESSERA_GATEWAY_TEXT_JINJA_RENDERER_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/text/jinja_ast.h"
#include "gateway/text/jinja_builtins.h"

namespace tessera::jinja {

// One rendering. Not thread-safe; use it once.
class Renderer {
 public:
  // `pool` must outlive the rendering and what it gives.
  Renderer(Pool* pool, absl::Time now) : pool_(pool), now_(now) { scopes_.emplace_back(); }

  void Set(std::string_view name, Value value);

  // Errors: INVALID_ARGUMENT naming the line, RESOURCE_EXHAUSTED past the limits of steps and of
  // `pool`.
  absl::StatusOr<TrackedText> Render(const Block& block);

 private:
  // How a block ended.
  enum class Flow { kNext, kBreak, kContinue };
  using Scope = std::vector<std::pair<std::string, Value>>;
  // One turn of a loop.
  struct Turn {
    const List* elements;
    size_t index;
  };

  absl::StatusOr<Flow> RunBlock(const Block& block, TrackedText* out);
  absl::StatusOr<Flow> RunStatement(const Statement& statement, TrackedText* out);
  absl::StatusOr<Flow> RunFor(const Statement& loop, TrackedText* out);
  absl::StatusOr<List> ChooseElements(const Statement& loop);
  absl::Status RunSet(const Statement& set);
  absl::Status Bind(const std::vector<std::string>& names, const Value& value);
  // The variable `loop` of the innermost loop, made when it is asked for.
  Value LoopVariable();
  Value Find(std::string_view name);
  absl::Status Step(const TrackedText& out);

  absl::StatusOr<Value> Evaluate(const Expression& expression);
  absl::StatusOr<Value> EvaluateNode(const Expression& expression);
  absl::StatusOr<Value> EvaluateIndex(const Expression& expression);
  absl::StatusOr<Value> EvaluateSlice(const Expression& expression);
  absl::StatusOr<Value> EvaluateMap(const Expression& expression);
  absl::StatusOr<Value> EvaluateList(const Expression& expression);
  absl::StatusOr<Value> EvaluateLogic(const Expression& expression);
  absl::StatusOr<Value> EvaluateBinary(const Expression& expression);
  absl::StatusOr<Value> EvaluateCompare(const Expression& expression);
  absl::StatusOr<Value> EvaluateCall(const Expression& expression);
  absl::StatusOr<Value> EvaluateNamespace(const Expression& expression);

  Pool* pool_;
  absl::Time now_;
  std::vector<Scope> scopes_;  // innermost last
  std::vector<Turn> loops_;    // innermost last
  size_t steps_ = 0;
};

// a `operation` b for + - * / // % ~.
// Errors: INVALID_ARGUMENT for kinds that do not go together, division by zero and overflow.
absl::StatusOr<Value> Combine(Pool* pool, std::string_view operation, const Value& a,
                              const Value& b);

// value[index], undefined when there is no such element.
Value Element(Pool* pool, const Value& value, int64_t index);

// value[begin:end:step]; none and undefined stand for bounds that are left out.
absl::StatusOr<Value> Slice(Pool* pool, const Value& value, const Value& begin, const Value& end,
                            const Value& step);

}  // namespace tessera::jinja

#endif  // TESSERA_GATEWAY_TEXT_JINJA_RENDERER_H_
