#include "gateway/text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/json_access.h"
#include "gateway/text/run_text.h"
#include "gateway/text/utf8.h"

namespace tessera {
namespace {

constexpr char kSpaceLetter[] = "\xe2\x96\x81";  // U+2581, the library's letter for a space

// Protobuf's rule that a later value of a field replaces an earlier one, in sub-messages too: these
// bytes behind a ModelProto set normalizer_spec.add_dummy_prefix to false.
constexpr std::string_view kNoPrefix("\x1a\x02\x18\x00", 4);

absl::Status Refused(std::string_view why) {
  return absl::InvalidArgumentError(Concat("tokenizer.model: ", why));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencepieceTokenizer::Create(
    const std::string& model, const boost::json::object& config) {
  std::unique_ptr<SentencepieceTokenizer> tokenizer(new SentencepieceTokenizer);
  RETURN_IF_ERROR(tokenizer->Load(model));
  RETURN_IF_ERROR(tokenizer->AddTokens(config));
  tokenizer->FindNative();
  return tokenizer;
}

absl::Status SentencepieceTokenizer::Load(const std::string& model) {
  std::string error;
  with_prefix_ = SentencepieceModel::Load(model, &error);
  if (with_prefix_ == nullptr) return Refused(error);
  bare_ = SentencepieceModel::Load(Concat(model, kNoPrefix), &error);
  if (bare_ == nullptr) return Refused(error);
  std::vector<uint32_t> with_prefix, bare;
  if (!with_prefix_->Encode("a", &with_prefix, &error)) return Refused(error);
  if (!bare_->Encode("a", &bare, &error)) return Refused(error);
  adds_prefix_ = with_prefix != bare;
  vocab_size_ = bare_->size();
  return absl::OkStatus();
}

absl::Status SentencepieceTokenizer::AddTokens(const boost::json::object& config) {
  prefix_after_special_ = JsonBool(config, "legacy", true);
  using Kind = SentencepieceModel::Kind;
  for (uint32_t id = 0; id < bare_->size(); ++id) {
    const Kind kind = bare_->KindOf(id);
    if (kind != Kind::kControl && kind != Kind::kUnknown) continue;
    added_by_id_[id] = {.id = id, .text = bare_->Piece(id), .special = true};
  }
  const boost::json::value* listed = JsonFind(config, "added_tokens_decoder");
  if (listed != nullptr && !listed->is_object()) {
    return absl::InvalidArgumentError("tokenizer_config.json: added_tokens_decoder is no object");
  }
  const boost::json::object none;
  for (const auto& [name, entry] : listed == nullptr ? none : listed->get_object()) {
    uint32_t id;
    const boost::json::object* token = entry.if_object();
    if (token == nullptr || !absl::SimpleAtoi(absl::string_view(name.data(), name.size()), &id)) {
      return absl::InvalidArgumentError("tokenizer_config.json: a damaged added_tokens_decoder");
    }
    added_by_id_[id] = {.id = id,
                        .text = std::string(JsonString(*token, "content")),
                        .special = JsonBool(*token, "special", false),
                        .strip_left = JsonBool(*token, "lstrip", false),
                        .strip_right = JsonBool(*token, "rstrip", false),
                        .single_word = JsonBool(*token, "single_word", false)};
  }
  std::vector<AddedToken> tokens;
  for (const auto& [id, token] : added_by_id_) {
    tokens.push_back(token);
    added_by_text_[token.text] = id;
    vocab_size_ = std::max<size_t>(vocab_size_, id + 1);
  }
  added_ = std::make_unique<AddedTokens>(std::move(tokens));
  return absl::OkStatus();
}

void SentencepieceTokenizer::FindNative() {
  std::vector<AddedToken> native;
  for (const auto& [id, token] : added_by_id_) {
    std::vector<uint32_t> ids;
    std::string error;
    if (!token.special || !bare_->Encode(token.text, &ids, &error)) continue;
    if (ids.size() != 1 || ids[0] != id) continue;
    native.push_back({.id = id, .text = token.text});
  }
  native_ = std::make_unique<AddedTokens>(std::move(native));
}

absl::StatusOr<std::vector<uint32_t>> SentencepieceTokenizer::EncodeRuns(
    std::span<const TextRun> runs) const {
  ASSIGN_OR_RETURN(const RunText text, RunText::Join(runs));
  std::vector<uint32_t> ids;
  for (const AddedTokens::Part& part : added_->Split(text.text(), text.recognised())) {
    if (part.id.has_value()) {
      ids.push_back(*part.id);
      continue;
    }
    const bool prefix = part.range.begin == 0 || prefix_after_special_;
    const std::string_view plain =
        text.text().substr(part.range.begin, part.range.end - part.range.begin);
    RETURN_IF_ERROR(EncodePlain(prefix ? *with_prefix_ : *bare_, plain, &ids));
  }
  return ids;
}

absl::Status SentencepieceTokenizer::EncodePlain(const SentencepieceModel& model,
                                                 std::string_view text,
                                                 std::vector<uint32_t>* ids) const {
  std::vector<size_t> cuts;
  for (const AddedTokens::Part& part : native_->Split(text, {})) {
    size_t offset = part.range.begin;
    if (!part.id.has_value()) continue;
    NextCodePoint(text, &offset);
    cuts.push_back(offset);
  }
  cuts.push_back(text.size());
  size_t begin = 0;
  for (const size_t cut : cuts) {
    const SentencepieceModel& use = begin == 0 ? model : *bare_;
    std::string error;
    if (!use.Encode(text.substr(begin, cut - begin), ids, &error)) return Refused(error);
    begin = cut;
  }
  return absl::OkStatus();
}

std::string SentencepieceTokenizer::TokenBytes(uint32_t id) const {
  const auto added = added_by_id_.find(id);
  if (added != added_by_id_.end()) return added->second.text;
  if (id >= bare_->size()) return "";
  const std::string& piece = bare_->Piece(id);
  uint32_t byte;
  // A byte's piece is spelled <0xAB>.
  if (bare_->KindOf(id) == SentencepieceModel::Kind::kByte && piece.size() == 6 &&
      absl::SimpleHexAtoi(piece.substr(3, 2), &byte)) {
    return std::string(1, static_cast<char>(byte));
  }
  return absl::StrReplaceAll(piece, {{kSpaceLetter, " "}});
}

std::optional<uint32_t> SentencepieceTokenizer::TokenId(std::string_view text) const {
  const auto added = added_by_text_.find(std::string(text));
  if (added != added_by_text_.end()) return added->second;
  return bare_->Find(absl::StrReplaceAll({text.data(), text.size()}, {{" ", kSpaceLetter}}));
}

bool SentencepieceTokenizer::IsSpecial(uint32_t id) const {
  const auto added = added_by_id_.find(id);
  return added != added_by_id_.end() && added->second.special;
}

std::string SentencepieceTokenizer::Decode(std::span<const uint32_t> ids, bool skip_special) const {
  std::string text = Tokenizer::Decode(ids, skip_special);
  const bool starts_with_word = !ids.empty() && (skip_special || !IsSpecial(ids[0]));
  if (adds_prefix_ && starts_with_word && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

}  // namespace tessera
