// Arbitrary text through the tokenizers (gateway/text/tokenizer.h): byte-level BPE behind several
// pre-tokenizers, and a sentencepiece model.
//
// The input is a byte that picks the tokenizer, one that says where runs are cut, and the text.
// Text that is not UTF-8 is refused. Otherwise cutting it into runs changes no id, and byte-level
// BPE without a normalizer gives it back. Patterns that are matched by hand cut it as PCRE2 does.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "boost/json.hpp"
#include "gateway/text/byte_level_tokenizer.h"
#include "gateway/text/known_pattern.h"
#include "gateway/text/nfc.h"
#include "gateway/text/pattern.h"
#include "gateway/text/sentencepiece_tokenizer.h"
#include "gateway/text/utf8.h"
#include "glog/logging.h"

namespace tessera::fuzz {
namespace {

namespace json = boost::json;

struct Subject {
  std::unique_ptr<Tokenizer> tokenizer;
  bool gives_back = false;  // Decode(Encode(x)) == x
};

json::object Split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
}

json::object ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", use_regex}};
}

json::object Sequence(json::array steps) {
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

Subject BytePairs(json::object pre_tokenizer, bool nfc) {
  ByteLevelSpec spec;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    spec.bpe.vocabulary.emplace_back(std::string(1, static_cast<char>(byte)), byte);
  }
  // Each merges two tokens that are there already; several can be made in two ways.
  const std::vector<std::pair<std::string, std::string>> merges = {
      {"h", "e"},       {"l", "l"},       {"he", "ll"},         {"hell", "o"},    {" ", "w"},
      {"\n", "\n"},     {" ", " "},       {"  ", "  "},         {"1", "2"},       {"e", "l"},
      {"\xc3", "\xa9"}, {"\xe4", "\xba"}, {"\xe4\xba", "\xba"}, {"\xf0", "\x9f"}, {"a", "a"},
      {"aa", "aa"},     {"aa", "a"}};
  for (const auto& [left, right] : merges) {
    const auto id = static_cast<uint32_t>(spec.bpe.vocabulary.size());
    spec.bpe.vocabulary.emplace_back(left + right, id);
    spec.bpe.merges.emplace_back(left, right);
  }
  auto id = static_cast<uint32_t>(spec.bpe.vocabulary.size());
  spec.added = {{.id = id, .text = "<|start|>", .special = true},
                {.id = id + 1, .text = "<think>"},
                {.id = id + 2, .text = "[S]", .special = true, .strip_left = true},
                {.id = id + 3, .text = "e\xcc\x81t", .normalized = true, .single_word = true}};
  spec.nfc = nfc;
  spec.pre_tokenizer = std::move(pre_tokenizer);
  auto tokenizer = ByteLevelTokenizer::Create(spec);
  CHECK(tokenizer.ok()) << tokenizer.status();
  return {*std::move(tokenizer), !nfc};
}

// Fields of protobuf's wire format, for a ModelProto by hand.
std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}
std::string Number(int field, uint64_t value) { return Varint(field << 3) + Varint(value); }
std::string Bytes(int field, const std::string& value) {
  return Varint(field << 3 | 2) + Varint(value.size()) + value;
}

// Of kind 1 (text), 2 (unknown), 3 (control) or 6 (byte).
std::string Piece(const std::string& text, float score, int kind) {
  const auto bits = std::bit_cast<uint32_t>(score);
  const std::string fixed(reinterpret_cast<const char*>(&bits), sizeof(bits));
  return Bytes(1, Bytes(1, text) + Varint(2 << 3 | 5) + fixed + Number(3, kind));
}

Subject Pieces() {
  std::string model = Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + Piece("</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kHex[] = "0123456789ABCDEF";
    model += Piece({'<', '0', 'x', kHex[byte / 16], kHex[byte % 16], '>'}, 0, 6);
  }
  float score = -1;
  for (const char* text : {"\xe2\x96\x81", "\xe2\x96\x81he", "ll", "hell", "o", "a", "aa", "e", "h",
                           "l", "w", "\xe4\xba\xba", "\xc3\xa9"}) {
    model += Piece(text, score -= 0.5f, 1);
  }
  const std::string unigram_with_bytes = Number(3, 1) + Number(35, 1);
  const std::string identity = Bytes(1, "identity") + Number(3, 1) + Number(4, 0);
  auto tokenizer = SentencepieceTokenizer::Create(
      model + Bytes(2, unigram_with_bytes) + Bytes(3, identity), json::object());
  CHECK(tokenizer.ok()) << tokenizer.status();
  return {*std::move(tokenizer), false};
}

const std::vector<Subject>& Subjects() {
  static const std::vector<Subject>* const kSubjects = [] {
    auto* subjects = new std::vector<Subject>;
    // The patterns of GPT-2, Llama 3 and Qwen 2, and GPT-4o.
    constexpr char kLlama3[] =
        R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    constexpr char kQwen2[] =
        R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    constexpr char kGpt4o[] =
        R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    const json::object digits = {{"type", "Digits"}, {"individual_digits", true}};
    subjects->push_back(BytePairs(ByteLevel(true), false));
    subjects->push_back(BytePairs(Sequence({digits, ByteLevel(true)}), false));
    subjects->push_back(BytePairs(Sequence({Split(kLlama3), ByteLevel(false)}), false));
    subjects->push_back(BytePairs(Sequence({Split(kQwen2), ByteLevel(false)}), true));
    subjects->push_back(BytePairs(Sequence({Split(kGpt4o), ByteLevel(false)}), false));
    subjects->push_back(Pieces());
    return subjects;
  }();
  return *kSubjects;
}

// `text` in runs of `cut` bytes, but whole code points; every `kind`-th may hold special tokens.
std::vector<TextRun> Runs(std::string_view text, size_t cut, SpecialTokens special) {
  std::vector<TextRun> runs;
  while (!text.empty()) {
    size_t size = std::min(text.size(), cut);
    while (size < text.size() && (static_cast<uint8_t>(text[size]) & 0xc0) == 0x80) ++size;
    runs.push_back({text.substr(0, size), special});
    text.remove_prefix(size);
  }
  return runs;
}

const Pattern& CompiledPattern(KnownPattern known) {
  static auto* const kPatterns = new std::map<KnownPattern, Pattern>;
  const auto it = kPatterns->find(known);
  if (it != kPatterns->end()) return it->second;
  auto pattern = Pattern::Compile(RegexOf(known));
  CHECK(pattern.ok()) << pattern.status();
  return kPatterns->emplace(known, *std::move(pattern)).first->second;
}

void CheckKnownPatterns(std::string_view text) {
  for (const auto known : {KnownPattern::kGpt2, KnownPattern::kLlama3, KnownPattern::kQwen2}) {
    PatternScan scan(CompiledPattern(known));
    std::vector<std::string_view> words;
    CutWords(known, text, &words);
    PatternScan::Match match = {0, 0};
    for (const std::string_view word : words) {
      const size_t from = match.end;
      const auto found = scan.Next(text, from, &match);
      CHECK(found.ok() && *found && match.begin == from && match.end == from + word.size());
    }
    CHECK_EQ(match.end, text.size());
  }
}

}  // namespace

void FuzzTokenizer(const uint8_t* bytes, size_t size) {
  if (size < 2) return;
  const Subject& subject = Subjects()[bytes[0] % Subjects().size()];
  const std::string text(reinterpret_cast<const char*>(bytes) + 2, size - 2);
  if (FindInvalidUtf8(text) == std::string_view::npos) {
    CheckKnownPatterns(text);
    CHECK(!IsSurelyNfc(text) || Nfc(text) == text);
  }
  for (const SpecialTokens special : {SpecialTokens::kPlainText, SpecialTokens::kRecognised}) {
    const auto ids = subject.tokenizer->Encode(text, special);
    CHECK_EQ(ids.ok(), FindInvalidUtf8(text) == std::string_view::npos) << ids.status();
    if (!ids.ok()) return;
    for (const uint32_t id : *ids) CHECK_LT(id, subject.tokenizer->vocab_size());
    const auto in_runs = subject.tokenizer->EncodeRuns(Runs(text, 1 + bytes[1], special));
    CHECK(in_runs.ok() && *in_runs == *ids) << "cut into runs";
    const std::string decoded = subject.tokenizer->Decode(*ids, /*skip_special=*/false);
    // An added token may take white space along.
    if (!subject.gives_back || special == SpecialTokens::kRecognised) continue;
    CHECK(decoded == text);
  }
}

}  // namespace tessera::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  tessera::fuzz::FuzzTokenizer(bytes, size);
  return 0;
}
