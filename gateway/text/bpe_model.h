// Byte-pair encoding of one word: the vocabulary and its merges.
#ifndef TESSERA_GATEWAY_TEXT_BPE_MODEL_H_
#define TESSERA_GATEWAY_TEXT_BPE_MODEL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/text/merge_table.h"
#include "gateway/text/token_table.h"

namespace tessera {

// What a BPE model is made of; tokens are raw bytes.
struct BpeSpec {
  std::vector<std::pair<std::string, uint32_t>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  // A word that is a token as it stands becomes that token, whatever the merges say.
  bool ignore_merges = false;
  // Stands for a byte without a token; absent: such a byte is dropped.
  std::optional<std::string> unknown_token;
  // One unknown token for a row of such bytes.
  bool fuse_unknown = false;
};

// Immutable: Encode may be called from any thread at any time. Every thread that calls it keeps the
// ids of words it met lately, in 0.5 MiB for all models together.
class BpeModel {
 public:
  // Errors: INVALID_ARGUMENT when a merge's parts or its result are not in the vocabulary, or a
  // token or an id comes twice.
  static absl::StatusOr<BpeModel> Create(const BpeSpec& spec);

  // Appends the ids of `word` to *ids: O(n log n) in its length.
  void Encode(std::string_view word, std::vector<uint32_t>* ids) const;

  std::optional<uint32_t> Find(std::string_view token) const;

  // Bytes of token `id`; empty when there is none.
  std::string_view Bytes(uint32_t id) const { return tokens_.Bytes(id); }

  size_t vocab_size() const { return tokens_.size(); }

 private:
  using Merge = MergeTable::Merge;

  explicit BpeModel(const BpeSpec& spec);
  absl::Status AddVocabulary(const BpeSpec& spec);
  absl::Status AddMerges(const BpeSpec& spec);
  void FindBytePairs();
  void FindWholeWords();
  // Appends the ids of `word`, without looking at whole words.
  void EncodeParts(std::string_view word, std::vector<uint32_t>* ids) const;
  void AppendSymbols(std::string_view word, std::vector<uint32_t>* ids) const;
  // Both merge the symbols of `word` and return how many are left, at the front of `symbols`.
  size_t MergeShort(std::string_view word, std::span<uint32_t> symbols) const;
  size_t MergeLong(std::span<uint32_t> symbols) const;

  // Tells this model's words from others' in the threads' caches.
  uint64_t serial_;
  // Marked are those that Encode makes of their own bytes: most words of most texts.
  TokenTable tokens_;
  std::array<int64_t, 256> byte_ids_;  // -1: no token for that byte
  MergeTable merges_;
  // Merges of the tokens of two bytes, by 256 * left + right: what every word starts with. Empty
  // when a byte has no token.
  std::vector<Merge> byte_pairs_;
  bool ignore_merges_;
  bool fuse_unknown_;
  std::optional<uint32_t> unknown_id_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_BPE_MODEL_H_
