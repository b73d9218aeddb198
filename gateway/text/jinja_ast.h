// A parsed template.
#ifndef TESSERA_GATEWAY_TEXT_JINJA_AST_H_
#define TESSERA_GATEWAY_TEXT_JINJA_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gateway/text/jinja_builtins.h"
#include "gateway/text/jinja_value.h"
#include "gateway/text/tracked_text.h"

namespace tessera::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,    // literal, literal_text
    kName,       // name
    kAttribute,  // children[0] . name
    kIndex,      // children[0] [ children[1] ]
    kSlice,      // children[0] [ children[1] : children[2] : children[3] ], null where left out
    kList,       // [children], also a tuple
    kMap,        // {children[0]: children[1], ...}
    kNot,        // name: operator, for kNot to kCompare
    kNegate,
    kAnd,
    kOr,
    kBinary,
    kCompare,      // children[0] name children[1]
    kConditional,  // children[0] if children[1] else children[2], null without an else
    kCall,         // builtin; arguments in children and named; a method's or filter's value first
    kTest,         // as kCall
    kNamespace,    // namespace(named)
  };

  Kind kind;
  int line = 0;
  std::string name;
  TrackedText literal_text;
  Value literal;
  std::vector<ExpressionPtr> children;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  Builtin builtin = nullptr;
};

struct Statement;
using Block = std::vector<Statement>;

struct Statement {
  enum class Kind {
    kText,        // text
    kPrint,       // value
    kFor,         // names in value, if condition; body, otherwise (when there was nothing)
    kIf,          // value; body, otherwise
    kSet,         // names = value; or name.attribute = value
    kSetBlock,    // names[0] = what body prints
    kGeneration,  // body: a mark for training, without meaning here
    kBreak,
    kContinue,
  };

  Kind kind;
  int line = 0;
  TrackedText text;
  ExpressionPtr value;
  ExpressionPtr condition;
  std::vector<std::string> names;
  std::string attribute;
  Block body;
  Block otherwise;
};

}  // namespace tessera::jinja

#endif  // TESSERA_GATEWAY_TEXT_JINJA_AST_H_
