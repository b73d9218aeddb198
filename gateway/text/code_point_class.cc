#include "gateway/text/code_point_class.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>

#include "gateway/text/pattern.h"
#include "gateway/text/utf8.h"
#include "glog/logging.h"

namespace tessera {
namespace {

// All code points but the surrogates, which no UTF-8 has.
std::string AllCodePoints(char32_t end) {
  std::string text;
  for (char32_t c = 0; c < end; ++c) {
    if (c < 0xd800 || c >= 0xe000) AppendUtf8(c, &text);
  }
  return text;
}

// Gives all matches of `onig` in `text` the class.
void Classify(std::string_view onig, std::string_view text, CodePointClass match_class,
              std::vector<CodePointClass>* classes) {
  const auto pattern = Pattern::Compile(onig);
  CHECK(pattern.ok()) << pattern.status();
  PatternScan scan(*pattern);
  PatternScan::Match match = {0, 0};
  while (true) {
    const auto found = scan.Next(text, match.end, &match);
    CHECK(found.ok()) << found.status();
    if (!*found) return;
    for (size_t at = match.begin; at < match.end;) {
      (*classes)[NextCodePoint(text, &at)] = match_class;
    }
  }
}

}  // namespace

const CodePointClasses& CodePointClasses::Get() {
  static const CodePointClasses kClasses;
  return kClasses;
}

CodePointClasses::CodePointClasses() {
  std::vector<CodePointClass> all(kEnd, CodePointClass::kOther);
  const std::string text = AllCodePoints(kEnd);
  Classify("\\p{L}+", text, CodePointClass::kLetter, &all);
  Classify("\\p{N}+", text, CodePointClass::kNumber, &all);
  Classify("\\s+", text, CodePointClass::kSpace, &all);
  std::map<std::vector<CodePointClass>, uint16_t> known;
  for (size_t page = 0; page < pages_.size(); ++page) {
    const auto begin = all.begin() + static_cast<ptrdiff_t>(page * kPage);
    const std::vector<CodePointClass> classes(begin, begin + kPage);
    const auto [it, added] = known.emplace(classes, static_cast<uint16_t>(known.size()));
    if (added) classes_.insert(classes_.end(), classes.begin(), classes.end());
    pages_[page] = it->second;
  }
}

}  // namespace tessera
