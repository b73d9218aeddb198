// ParseTokenizerJson: from the file's letters to raw bytes, and no part of it overlooked.
#include <array>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/byte_level_tokenizer.h"
#include "gateway/text/concat.h"
#include "gateway/text/json_access.h"
#include "gateway/text/utf8.h"

namespace tessera {
namespace {

using Json = boost::json::object;

absl::Status Unsupported(std::string_view what) {
  return absl::UnimplementedError(Concat("tokenizer.json: ", what, " is not supported"));
}

absl::Status Damaged(std::string_view what) {
  return absl::InvalidArgumentError(Concat("tokenizer.json: ", what));
}

// GPT-2's alphabet: bytes that print stand for themselves, the others for U+0100 and up. The value
// at a code point is its byte, or -1.
std::array<int, 0x144> ByteOfLetter() {
  std::array<int, 0x144> bytes;
  bytes.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints =
        (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    bytes[prints ? static_cast<char32_t>(byte) : next++] = byte;
  }
  return bytes;
}

// The bytes that a token's letters stand for; absent when one is not of GPT-2's alphabet.
std::optional<std::string> TokenBytes(std::string_view letters) {
  static const std::array<int, 0x144> kBytes = ByteOfLetter();
  std::string bytes;
  size_t offset = 0;
  while (offset < letters.size()) {
    const char32_t letter = NextCodePoint(letters, &offset);
    if (letter >= kBytes.size() || kBytes[letter] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kBytes[letter]));
  }
  return bytes;
}

std::string_view View(const boost::json::string& text) { return {text.data(), text.size()}; }

absl::StatusOr<uint32_t> TokenIdOf(const boost::json::value& json) {
  boost::json::error_code error;
  const auto id = json.to_number<uint32_t>(error);
  if (error) return Damaged("a token's id is no number");
  return id;
}

absl::Status ReadAdded(const Json& json, ByteLevelSpec* spec) {
  const boost::json::value* list = JsonFind(json, "added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return Damaged("added_tokens is no list");
  for (const boost::json::value& entry : list->get_array()) {
    const Json* token = entry.if_object();
    if (token == nullptr || JsonFind(*token, "id") == nullptr) {
      return Damaged("an added token without an id");
    }
    ASSIGN_OR_RETURN(const uint32_t id, TokenIdOf(*JsonFind(*token, "id")));
    const bool special = JsonBool(*token, "special", false);
    spec->added.push_back({.id = id,
                           .text = std::string(JsonString(*token, "content")),
                           .special = special,
                           .normalized = JsonBool(*token, "normalized", !special),
                           .strip_left = JsonBool(*token, "lstrip", false),
                           .strip_right = JsonBool(*token, "rstrip", false),
                           .single_word = JsonBool(*token, "single_word", false)});
  }
  return absl::OkStatus();
}

absl::Status ReadVocabulary(const Json& model, ByteLevelSpec* spec) {
  const boost::json::value* vocabulary = JsonFind(model, "vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) return Damaged("model.vocab is no object");
  for (const auto& [letters, value] : vocabulary->get_object()) {
    ASSIGN_OR_RETURN(const uint32_t id, TokenIdOf(value));
    std::optional<std::string> bytes = TokenBytes({letters.data(), letters.size()});
    // Letters outside the alphabet never come out of a text's bytes: only added tokens have them.
    if (!bytes.has_value()) {
      bool added = false;
      for (const AddedToken& token : spec->added) added = added || token.id == id;
      if (added) continue;
      return Unsupported(Concat("a vocabulary that is not byte-level (token ", id, ")"));
    }
    if (!bytes->empty()) spec->bpe.vocabulary.emplace_back(*std::move(bytes), id);
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const Json& model, ByteLevelSpec* spec) {
  const boost::json::value* merges = JsonFind(model, "merges");
  if (merges == nullptr || !merges->is_array()) return Damaged("model.merges is no list");
  spec->bpe.merges.reserve(merges->get_array().size());
  for (const boost::json::value& merge : merges->get_array()) {
    std::string_view left, right;
    if (const boost::json::string* line = merge.if_string()) {
      const size_t space = View(*line).find(' ');
      if (space == std::string_view::npos) return Damaged("a merge without two parts");
      left = View(*line).substr(0, space);
      right = View(*line).substr(space + 1);
    } else {
      const boost::json::array* pair = merge.if_array();
      if (pair == nullptr || pair->size() != 2 || !(*pair)[0].is_string() ||
          !(*pair)[1].is_string()) {
        return Damaged("a merge that is neither a string nor a pair of strings");
      }
      left = View((*pair)[0].get_string());
      right = View((*pair)[1].get_string());
    }
    std::optional<std::string> left_bytes = TokenBytes(left), right_bytes = TokenBytes(right);
    if (!left_bytes || !right_bytes) return Unsupported("a merge of letters that are no bytes");
    spec->bpe.merges.emplace_back(*std::move(left_bytes), *std::move(right_bytes));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const Json& json, ByteLevelSpec* spec) {
  const boost::json::value* value = JsonFind(json, "model");
  if (value == nullptr || !value->is_object()) return Damaged("there is no model");
  const Json& model = value->get_object();
  // Files of old versions leave the type out.
  if (JsonString(model, "type", "BPE") != "BPE") {
    return Unsupported(Concat("model ", JsonString(model, "type")));
  }
  for (const std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!JsonString(model, affix).empty()) return Unsupported(affix);
  }
  if (JsonBool(model, "byte_fallback", false)) return Unsupported("byte_fallback");
  const boost::json::value* dropout = JsonFind(model, "dropout");
  if (dropout != nullptr && dropout->is_number() && dropout->to_number<double>() != 0) {
    return Unsupported("dropout");
  }
  spec->bpe.ignore_merges = JsonBool(model, "ignore_merges", false);
  spec->bpe.fuse_unknown = JsonBool(model, "fuse_unk", false);
  if (JsonFind(model, "unk_token") != nullptr) {
    spec->bpe.unknown_token = std::string(JsonString(model, "unk_token"));
  }
  RETURN_IF_ERROR(ReadVocabulary(model, spec));
  return ReadMerges(model, spec);
}

absl::Status ReadNormalizer(const boost::json::value& json, ByteLevelSpec* spec) {
  const Json* object = json.if_object();
  if (object == nullptr) return Damaged("normalizer is no object");
  const std::string_view type = JsonString(*object, "type");
  if (type == "NFC") {
    spec->nfc = true;
    return absl::OkStatus();
  }
  const boost::json::value* steps = JsonFind(*object, "normalizers");
  if (type != "Sequence" || steps == nullptr || !steps->is_array()) {
    return Unsupported(Concat("normalizer ", type));
  }
  for (const boost::json::value& step : steps->get_array()) {
    RETURN_IF_ERROR(ReadNormalizer(step, spec));
  }
  return absl::OkStatus();
}

// These put special tokens around a whole prompt, or move offsets: no id of a text depends on them.
absl::Status CheckPostProcessor(const boost::json::value& json) {
  const Json* object = json.if_object();
  if (object == nullptr) return Damaged("post_processor is no object");
  const std::string_view type = JsonString(*object, "type");
  if (type == "ByteLevel" || type == "TemplateProcessing") return absl::OkStatus();
  const boost::json::value* steps = JsonFind(*object, "processors");
  if (type != "Sequence" || steps == nullptr || !steps->is_array()) {
    return Unsupported(Concat("post_processor ", type));
  }
  for (const boost::json::value& step : steps->get_array()) {
    RETURN_IF_ERROR(CheckPostProcessor(step));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ByteLevelSpec> ParseTokenizerJson(const boost::json::object& json) {
  ByteLevelSpec spec;
  RETURN_IF_ERROR(ReadAdded(json, &spec));
  if (const boost::json::value* normalizer = JsonFind(json, "normalizer")) {
    RETURN_IF_ERROR(ReadNormalizer(*normalizer, &spec));
  }
  if (const boost::json::value* processor = JsonFind(json, "post_processor")) {
    RETURN_IF_ERROR(CheckPostProcessor(*processor));
  }
  if (const boost::json::value* decoder = JsonFind(json, "decoder")) {
    const Json* object = decoder->if_object();
    const std::string_view type = object == nullptr ? "" : JsonString(*object, "type");
    if (type != "ByteLevel") return Unsupported(Concat("decoder ", type));
  }
  const boost::json::value* pre_tokenizer = JsonFind(json, "pre_tokenizer");
  if (pre_tokenizer == nullptr) return Unsupported("a model without pre_tokenizer");
  spec.pre_tokenizer = *pre_tokenizer;
  RETURN_IF_ERROR(ReadModel(json, &spec));
  return spec;
}

}  // namespace tessera
