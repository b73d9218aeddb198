#include "gateway/text/jinja_parser.h"

#include <initializer_list>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/jinja_expression_parser.h"

namespace tessera::jinja {
namespace {

using Kind = Token::Kind;
using Node = Statement::Kind;

constexpr int kLargestDepth = 100;

class StatementParser {
 public:
  StatementParser(std::vector<Token> tokens, int text_origin)
      : tokens_(std::move(tokens), text_origin) {}

  absl::StatusOr<ParsedTemplate> Run() {
    ParsedTemplate parsed;
    ASSIGN_OR_RETURN(parsed.body, ParseBlock({}));
    parsed.names = tokens_.names();
    return parsed;
  }

 private:
  Statement Make(Node kind) const {
    Statement statement;
    statement.kind = kind;
    statement.line = tokens_.Peek().line;
    return statement;
  }

  absl::Status EndTag() {
    if (tokens_.Peek().kind != Kind::kBlockEnd) {
      return tokens_.Broken(Concat("unexpected '", tokens_.Peek().text, "' in a tag"));
    }
    tokens_.Take();
    return absl::OkStatus();
  }

  // Statements up to a tag that starts with one of `ends`, whose name is left to be taken; without
  // ends, up to the end of the template.
  absl::StatusOr<Block> ParseBlock(std::initializer_list<std::string_view> ends) {
    if (++depth_ > kLargestDepth) return tokens_.Unsupported("nesting this deep");
    Block block;
    while (true) {
      const Token token = tokens_.Peek();
      if (token.kind == Kind::kEnd) {
        if (ends.size() > 0) return tokens_.Broken(Concat("a block lacks its ", *ends.begin()));
        break;
      }
      tokens_.Take();
      if (token.kind == Kind::kText) {
        block.push_back(Make(Node::kText));
        block.back().text = TrackedText(token.text, tokens_.text_origin());
        continue;
      }
      if (token.kind == Kind::kPrintBegin) {
        Statement print = Make(Node::kPrint);
        ASSIGN_OR_RETURN(print.value, tokens_.ParseTuple());
        if (tokens_.Take().kind != Kind::kPrintEnd) return tokens_.Broken("expected '}}'");
        block.push_back(std::move(print));
        continue;
      }
      bool end = false;
      for (const std::string_view name : ends) end = end || tokens_.IsName(name);
      if (end) break;
      ASSIGN_OR_RETURN(Statement statement, ParseStatement());
      block.push_back(std::move(statement));
    }
    --depth_;
    return block;
  }

  absl::StatusOr<Statement> ParseStatement() {
    ASSIGN_OR_RETURN(const std::string name, tokens_.ExpectName());
    if (name == "for") return ParseFor();
    if (name == "if") return ParseIf();
    if (name == "set") return ParseSet();
    if (name == "generation") {
      Statement generation = Make(Node::kGeneration);
      RETURN_IF_ERROR(EndTag());
      ASSIGN_OR_RETURN(generation.body, ParseBlock({"endgeneration"}));
      tokens_.Take();
      RETURN_IF_ERROR(EndTag());
      return generation;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return tokens_.Broken(Concat(name, " outside of a loop"));
      Statement jump = Make(name == "break" ? Node::kBreak : Node::kContinue);
      RETURN_IF_ERROR(EndTag());
      return jump;
    }
    return tokens_.Unsupported(Concat("the tag ", name));
  }

  absl::StatusOr<Statement> ParseFor() {
    Statement loop = Make(Node::kFor);
    ASSIGN_OR_RETURN(loop.names, ParseTargets());
    if (!tokens_.TakeName("in")) return tokens_.Broken("expected 'in'");
    ASSIGN_OR_RETURN(loop.value, tokens_.ParseTuple(false));
    if (tokens_.TakeName("if")) {
      ASSIGN_OR_RETURN(loop.condition, tokens_.ParseExpression());
    }
    if (tokens_.IsName("recursive")) return tokens_.Unsupported("a recursive loop");
    RETURN_IF_ERROR(EndTag());
    ++loops_;
    ASSIGN_OR_RETURN(loop.body, ParseBlock({"endfor", "else"}));
    --loops_;
    if (tokens_.TakeName("else")) {
      RETURN_IF_ERROR(EndTag());
      ASSIGN_OR_RETURN(loop.otherwise, ParseBlock({"endfor"}));
    }
    tokens_.Take();
    RETURN_IF_ERROR(EndTag());
    return loop;
  }

  // "if" and "elif" are parsed alike: an elif is an if in the branch for otherwise, and both end at
  // the same endif.
  absl::StatusOr<Statement> ParseIf() {
    Statement branch = Make(Node::kIf);
    ASSIGN_OR_RETURN(branch.value, tokens_.ParseTuple());
    RETURN_IF_ERROR(EndTag());
    ASSIGN_OR_RETURN(branch.body, ParseBlock({"endif", "elif", "else"}));
    if (tokens_.TakeName("elif")) {
      if (++depth_ > kLargestDepth) return tokens_.Unsupported("nesting this deep");
      ASSIGN_OR_RETURN(Statement next, ParseIf());
      --depth_;
      branch.otherwise.push_back(std::move(next));
      return branch;
    }
    if (tokens_.TakeName("else")) {
      RETURN_IF_ERROR(EndTag());
      ASSIGN_OR_RETURN(branch.otherwise, ParseBlock({"endif"}));
    }
    tokens_.Take();
    RETURN_IF_ERROR(EndTag());
    return branch;
  }

  absl::StatusOr<Statement> ParseSet() {
    Statement set = Make(Node::kSet);
    ASSIGN_OR_RETURN(set.names, ParseTargets());
    if (set.names.size() == 1 && tokens_.TakeOperator(".")) {
      ASSIGN_OR_RETURN(set.attribute, tokens_.ExpectName());
    }
    if (tokens_.TakeOperator("=")) {
      ASSIGN_OR_RETURN(set.value, tokens_.ParseTuple());
      RETURN_IF_ERROR(EndTag());
      return set;
    }
    if (tokens_.IsOperator("|")) return tokens_.Unsupported("a filter on a set block");
    set.kind = Node::kSetBlock;
    RETURN_IF_ERROR(EndTag());
    ASSIGN_OR_RETURN(set.body, ParseBlock({"endset"}));
    tokens_.Take();
    RETURN_IF_ERROR(EndTag());
    return set;
  }

  // "a", "a, b" or "(a, b)".
  absl::StatusOr<std::vector<std::string>> ParseTargets() {
    std::vector<std::string> names;
    const bool round = tokens_.TakeOperator("(");
    do {
      ASSIGN_OR_RETURN(std::string name, tokens_.ExpectName());
      names.push_back(std::move(name));
    } while (tokens_.TakeOperator(","));
    if (round) RETURN_IF_ERROR(tokens_.Expect(")"));
    return names;
  }

  ExpressionParser tokens_;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

absl::StatusOr<ParsedTemplate> Parse(std::string_view source, int text_origin) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Lex(source));
  return StatementParser(std::move(tokens), text_origin).Run();
}

}  // namespace tessera::jinja
