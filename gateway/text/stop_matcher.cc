#include "gateway/text/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace tessera {
namespace {

// failure[i]: length of the longest proper prefix of `text` that ends text[0..i].
std::vector<size_t> FailureTable(std::string_view text) {
  std::vector<size_t> failure(text.size(), 0);
  size_t length = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = failure[length - 1];
    if (text[i] == text[length]) ++length;
    failure[i] = length;
  }
  return failure;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stop_strings) {
  // Longest first: of the matches that end at one byte, that one is reported.
  std::stable_sort(stop_strings.begin(), stop_strings.end(),
                   [](const auto& a, const auto& b) { return a.size() > b.size(); });
  for (std::string& stop : stop_strings) {
    if (stop.empty()) continue;
    std::vector<size_t> failure = FailureTable(stop);
    patterns_.push_back({std::move(stop), std::move(failure)});
  }
}

std::optional<std::string> StopMatcher::Append(std::string_view text, std::string* final_text,
                                               bool armed) {
  if (patterns_.empty()) {
    final_text->append(text);
    return std::nullopt;
  }
  for (const char letter : text) {
    held_.push_back(letter);
    for (Pattern& pattern : patterns_) {
      size_t& matched = pattern.matched;
      while (matched > 0 && letter != pattern.text[matched]) matched = pattern.failure[matched - 1];
      if (letter == pattern.text[matched]) ++matched;
      if (matched < pattern.text.size()) continue;
      if (!armed) {
        matched = pattern.failure[matched - 1];
        continue;
      }
      final_text->append(held_, 0, held_.size() - matched);
      held_.clear();
      return pattern.text;
    }
  }
  size_t keep = 0;
  for (const Pattern& pattern : patterns_) keep = std::max(keep, pattern.matched);
  final_text->append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return std::nullopt;
}

std::string StopMatcher::TakeHeld() { return std::exchange(held_, {}); }

}  // namespace tessera
