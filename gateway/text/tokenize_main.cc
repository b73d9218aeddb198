// tessera_tokenize: token ids of texts, for comparing and timing.
//
//   tessera_tokenize MODEL_DIR < texts      one line of ids for each text
//
// Standard input holds texts, each behind its length in bytes as decimal digits and a line feed.
// Flags: --special recognises special tokens; --decode prints the texts that the ids decode to, in
// the input's form; --seconds=S measures instead: it encodes all texts once and then over and over
// for S seconds, and prints bytes a second of processor time of the first pass and of the others.
#include <cstdint>
#include <ctime>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "gateway/text/tokenizer.h"

ABSL_FLAG(bool, special, false, "recognise special tokens");
ABSL_FLAG(bool, decode, false, "print what the ids decode to");
ABSL_FLAG(double, seconds, 0, "measure for this long");

namespace tessera {
namespace {

// Texts of the input; false when a length is damaged.
bool ReadTexts(std::string_view input, std::vector<std::string_view>* texts) {
  while (!input.empty()) {
    const size_t line = input.find('\n');
    if (line == std::string_view::npos || line == 0 || line > 18) return false;
    size_t size = 0;
    for (const char digit : input.substr(0, line)) {
      if (digit < '0' || digit > '9') return false;
      size = size * 10 + static_cast<size_t>(digit - '0');
    }
    input.remove_prefix(line + 1);
    if (size > input.size()) return false;
    texts->push_back(input.substr(0, size));
    input.remove_prefix(size);
  }
  return true;
}

void Print(const Tokenizer& tokenizer, const std::vector<uint32_t>& ids, std::string* out) {
  if (absl::GetFlag(FLAGS_decode)) {
    const std::string text = tokenizer.Decode(ids, false);
    *out += std::to_string(text.size()) + "\n" + text;
    return;
  }
  for (const uint32_t id : ids) *out += std::to_string(id) + " ";
  *out += "\n";
}

// Seconds of processor time that one pass over `texts` takes; below 0 when one is refused.
double TimePass(const Tokenizer& tokenizer, const std::vector<std::string_view>& texts,
                SpecialTokens special) {
  const std::clock_t start = std::clock();
  for (const std::string_view text : texts) {
    if (!tokenizer.Encode(text, special).ok()) return -1;
  }
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

int Measure(const Tokenizer& tokenizer, const std::vector<std::string_view>& texts,
            SpecialTokens special) {
  size_t size = 0;
  for (const std::string_view text : texts) size += text.size();
  const double first = TimePass(tokenizer, texts, special);
  if (first < 0) {
    std::cerr << "a text is not UTF-8\n";
    return 1;
  }
  double seconds = 0, passes = 0;
  for (; seconds < absl::GetFlag(FLAGS_seconds); ++passes) {
    seconds += TimePass(tokenizer, texts, special);
  }
  std::cout << static_cast<double>(size) / first << " "
            << static_cast<double>(size) * passes / seconds << "\n";
  return 0;
}

int Main(const std::string& model_dir) {
  auto tokenizer = LoadTokenizer(model_dir);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  std::vector<std::string_view> texts;
  if (!ReadTexts(input, &texts)) {
    std::cerr << "the input is no row of texts behind their lengths\n";
    return 1;
  }
  const auto special =
      absl::GetFlag(FLAGS_special) ? SpecialTokens::kRecognised : SpecialTokens::kPlainText;
  if (absl::GetFlag(FLAGS_seconds) > 0) return Measure(**tokenizer, texts, special);
  std::string out;
  for (const std::string_view text : texts) {
    const auto ids = (*tokenizer)->Encode(text, special);
    if (!ids.ok()) {
      std::cerr << ids.status() << "\n";
      return 1;
    }
    Print(**tokenizer, *ids, &out);
  }
  std::cout << out;
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (arguments.size() != 2) {
    std::cerr << "usage: tessera_tokenize MODEL_DIR < texts\n";
    return 2;
  }
  std::ios::sync_with_stdio(false);
  return tessera::Main(arguments[1]);
}
