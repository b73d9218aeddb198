#include "gateway/text/pre_tokenizer.h"

#include <utf8proc.h>

#include <utility>

#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "gateway/text/code_point_class.h"
#include "gateway/text/concat.h"
#include "gateway/text/json_access.h"
#include "gateway/text/utf8.h"

namespace tessera {
namespace {

bool IsDigit(char32_t code_point) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

// A pattern that matches `text` itself.
std::string Quote(std::string_view text) {
  std::string quoted;
  for (const char letter : text) {
    if (absl::string_view(R"(\^$.|?*+()[]{}-/#)").find(letter) != absl::string_view::npos) {
      quoted.push_back('\\');
    }
    quoted.push_back(letter);
  }
  return quoted;
}

void CutDigits(std::string_view text, bool join, std::vector<std::string_view>* out) {
  size_t begin = 0, at = 0;
  bool was_digit = false;
  while (at < text.size()) {
    size_t next = at + 1;
    const char first = text[at];
    bool is_digit = first >= '0' && first <= '9';
    if (static_cast<uint8_t>(first) >= 0x80) {
      next = at;
      is_digit = IsDigit(NextCodePoint(text, &next));
    }
    if (at > begin && (is_digit != was_digit || (is_digit && !join))) {
      out->push_back(text.substr(begin, at - begin));
      begin = at;
    }
    was_digit = is_digit;
    at = next;
  }
  if (begin < text.size()) out->push_back(text.substr(begin));
}

absl::Status Unsupported(std::string_view what) {
  return absl::UnimplementedError(Concat("pre_tokenizer ", what, " is not supported"));
}

}  // namespace

absl::StatusOr<PreTokenizer::Step> PreTokenizer::StepFromJson(const boost::json::object& json) {
  const std::string_view type = JsonString(json, "type");
  Step step;
  if (type == "ByteLevel") {
    step.add_prefix_space = JsonBool(json, "add_prefix_space", true);
    if (JsonBool(json, "use_regex", true)) step.known = KnownPattern::kGpt2;
    return step;
  }
  if (type == "Digits") {
    step.cut_digits = true;
    step.join_digits = !JsonBool(json, "individual_digits", false);
    return step;
  }
  if (type != "Split") return Unsupported(type);
  const boost::json::value* pattern = JsonFind(json, "pattern");
  if (pattern == nullptr || !pattern->is_object()) return Unsupported("Split without a pattern");
  const std::string_view regex = JsonString(pattern->get_object(), "Regex");
  const std::string_view literal = JsonString(pattern->get_object(), "String");
  if (regex.empty() == literal.empty()) return Unsupported("Split with an empty pattern");
  const std::string_view behavior = JsonString(json, "behavior");
  const bool invert = JsonBool(json, "invert", false);
  if (behavior == "Removed") {
    step.drop_matches = !invert;
    step.drop_others = invert;
  } else if (behavior != "Isolated") {
    return Unsupported(Concat("Split with behavior ", behavior));
  } else {
    step.known = FindKnownPattern(regex);
    if (step.known.has_value()) return step;
  }
  ASSIGN_OR_RETURN(step.pattern, Pattern::Compile(literal.empty() ? regex : Quote(literal)));
  return step;
}

absl::Status PreTokenizer::AddSteps(const boost::json::value& json, PreTokenizer* result) {
  if (!json.is_object()) return Unsupported("that is no object");
  const boost::json::object& object = json.get_object();
  if (JsonString(object, "type") == "Sequence") {
    const boost::json::value* steps = JsonFind(object, "pretokenizers");
    if (steps == nullptr || !steps->is_array()) return Unsupported("Sequence of nothing");
    for (const boost::json::value& step : steps->get_array()) {
      RETURN_IF_ERROR(AddSteps(step, result));
    }
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(Step step, StepFromJson(object));
  result->steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const boost::json::value& json) {
  PreTokenizer result;
  RETURN_IF_ERROR(AddSteps(json, &result));
  CodePointClasses::Get();  // made now, not in the first request
  const boost::json::object* last = json.if_object();
  while (last != nullptr && JsonString(*last, "type") == "Sequence") {
    const boost::json::array& steps = last->at("pretokenizers").get_array();
    last = steps.empty() ? nullptr : steps.back().if_object();
  }
  if (last == nullptr || JsonString(*last, "type") != "ByteLevel") {
    return Unsupported("that does not end with ByteLevel");
  }
  return result;
}

absl::Status PreTokenizer::RunPattern(const Step& step, const std::vector<std::string_view>& words,
                                      std::vector<std::string_view>* out) {
  PatternScan scan(*step.pattern);
  for (const std::string_view word : words) {
    size_t begin = 0, from = 0;  // of what is not yet given out; of the next search
    PatternScan::Match match;
    while (from < word.size()) {
      ASSIGN_OR_RETURN(const bool found, scan.Next(word, from, &match));
      if (!found) break;
      if (match.begin > begin && !step.drop_others) {
        out->push_back(word.substr(begin, match.begin - begin));
      }
      if (match.end > match.begin && !step.drop_matches) {
        out->push_back(word.substr(match.begin, match.end - match.begin));
      }
      begin = from = match.end;
      // An empty match cuts, and the search goes on behind the next code point.
      if (match.end == match.begin && from < word.size()) NextCodePoint(word, &from);
    }
    if (begin < word.size() && !step.drop_others) out->push_back(word.substr(begin));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string_view>> PreTokenizer::Split(
    std::string_view text, std::deque<std::string>* storage) const {
  std::vector<std::string_view> words, next;
  if (!text.empty()) words.push_back(text);
  for (const Step& step : steps_) {
    if (step.add_prefix_space) {
      for (std::string_view& word : words) {
        if (word.starts_with(' ')) continue;
        word = storage->emplace_back(Concat(" ", word));
      }
    }
    if (!step.cut_digits && !step.known.has_value() && !step.pattern.has_value()) continue;
    next.clear();
    if (!step.cut_digits) next.reserve(words.size() + text.size() / 4);
    if (step.cut_digits) {
      for (const std::string_view word : words) CutDigits(word, step.join_digits, &next);
    } else if (step.known.has_value()) {
      for (const std::string_view word : words) CutWords(*step.known, word, &next);
    } else {
      RETURN_IF_ERROR(RunPattern(step, words, &next));
    }
    words.swap(next);
  }
  return words;
}

}  // namespace tessera
