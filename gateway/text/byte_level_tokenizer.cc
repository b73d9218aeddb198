#include "gateway/text/byte_level_tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "gateway/text/nfc.h"

namespace tessera {
namespace {

std::vector<AddedToken> Select(const std::vector<AddedToken>& tokens, bool normalized, bool nfc) {
  std::vector<AddedToken> selected;
  for (AddedToken token : tokens) {
    if (token.normalized != normalized) continue;
    if (normalized && nfc) token.text = Nfc(token.text);
    selected.push_back(std::move(token));
  }
  return selected;
}

}  // namespace

ByteLevelTokenizer::ByteLevelTokenizer(const ByteLevelSpec& spec, BpeModel bpe,
                                       PreTokenizer pre_tokenizer)
    : bpe_(std::move(bpe)),
      pre_tokenizer_(std::move(pre_tokenizer)),
      nfc_(spec.nfc),
      raw_added_(Select(spec.added, false, spec.nfc)),
      normalized_added_(Select(spec.added, true, spec.nfc)),
      vocab_size_(bpe_.vocab_size()) {
  if (nfc_) IsSurelyNfc("\u0300");  // makes its table now, not in the first request
  for (const AddedToken& token : spec.added) {
    added_by_id_[token.id] = token;
    added_by_text_[token.text] = token.id;
    vocab_size_ = std::max<size_t>(vocab_size_, token.id + 1);
  }
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ByteLevelTokenizer::Create(const ByteLevelSpec& spec) {
  ASSIGN_OR_RETURN(BpeModel bpe, BpeModel::Create(spec.bpe));
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::FromJson(spec.pre_tokenizer));
  return std::unique_ptr<Tokenizer>(
      new ByteLevelTokenizer(spec, std::move(bpe), std::move(pre_tokenizer)));
}

absl::StatusOr<std::vector<uint32_t>> ByteLevelTokenizer::EncodeRuns(
    std::span<const TextRun> runs) const {
  ASSIGN_OR_RETURN(const RunText text, RunText::Join(runs));
  std::vector<uint32_t> ids;
  ids.reserve(text.text().size() / 3 + 4);
  for (const AddedTokens::Part& part : raw_added_.Split(text.text(), text.recognised())) {
    if (part.id.has_value()) {
      ids.push_back(*part.id);
    } else {
      RETURN_IF_ERROR(EncodeRange(text, part.range, &ids));
    }
  }
  return ids;
}

absl::Status ByteLevelTokenizer::EncodeRange(const RunText& text, ByteRange range,
                                             std::vector<uint32_t>* ids) const {
  std::string_view normal = text.text().substr(range.begin, range.end - range.begin);
  std::vector<ByteRange> recognised;
  std::string changed;
  const bool change = nfc_ && !IsSurelyNfc(normal);
  // Normalization changes lengths, so it goes by stretches of one kind.
  size_t begin = 0;
  for (const RunText::Piece& piece : text.Cut(range)) {
    const size_t size = piece.range.end - piece.range.begin;
    if (change) changed += Nfc(text.text().substr(piece.range.begin, size));
    const size_t end = change ? changed.size() : begin + size;
    if (piece.recognised) recognised.push_back({begin, end});
    begin = end;
  }
  if (change) normal = changed;
  for (const AddedTokens::Part& part : normalized_added_.Split(normal, recognised)) {
    if (part.id.has_value()) {
      ids->push_back(*part.id);
      continue;
    }
    RETURN_IF_ERROR(
        EncodePlain(normal.substr(part.range.begin, part.range.end - part.range.begin), ids));
  }
  return absl::OkStatus();
}

absl::Status ByteLevelTokenizer::EncodePlain(std::string_view text,
                                             std::vector<uint32_t>* ids) const {
  std::deque<std::string> storage;
  ASSIGN_OR_RETURN(const auto words, pre_tokenizer_.Split(text, &storage));
  for (const std::string_view word : words) bpe_.Encode(word, ids);
  return absl::OkStatus();
}

std::string ByteLevelTokenizer::TokenBytes(uint32_t id) const {
  const auto added = added_by_id_.find(id);
  return added != added_by_id_.end() ? added->second.text : std::string(bpe_.Bytes(id));
}

std::optional<uint32_t> ByteLevelTokenizer::TokenId(std::string_view text) const {
  const auto added = added_by_text_.find(std::string(text));
  if (added != added_by_text_.end()) return added->second;
  return bpe_.Find(text);
}

bool ByteLevelTokenizer::IsSpecial(uint32_t id) const {
  const auto added = added_by_id_.find(id);
  return added != added_by_id_.end() && added->second.special;
}

}  // namespace tessera
