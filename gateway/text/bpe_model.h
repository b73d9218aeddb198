// Byte-pair encoding of one word: the vocabulary and its merges.
#ifndef TESSERA_GATEWAY_TEXT_BPE_MODEL_H_
#define TESSERA_GATEWAY_TEXT_BPE_MODEL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

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
  std::string_view Bytes(uint32_t id) const;

  size_t vocab_size() const { return bytes_.size(); }

 private:
  struct Merge {
    uint32_t rank;
    uint32_t id;
  };
  // Open-addressed map from a pair of ids to its merge; linear probing, at most half full.
  class MergeTable {
   public:
    explicit MergeTable(size_t count);
    // False when the pair is there already.
    bool Insert(uint32_t left, uint32_t right, Merge merge);
    // Rank kNoRank when the pair does not merge.
    Merge Find(uint32_t left, uint32_t right) const;

   private:
    struct Slot {
      uint64_t key;
      Merge merge;
    };
    size_t Start(uint64_t key) const;

    std::vector<Slot> slots_;
    int shift_;
  };

  static constexpr uint32_t kNoRank = UINT32_MAX;

  explicit BpeModel(const BpeSpec& spec);
  absl::Status AddVocabulary(const BpeSpec& spec);
  absl::Status AddMerges(const BpeSpec& spec);
  void FindWholeWords();
  // Merges without looking at whole words.
  std::vector<uint32_t> EncodeParts(std::string_view word) const;
  std::vector<uint32_t> Symbols(std::string_view word) const;
  void MergeShort(std::vector<uint32_t>* symbols) const;
  void MergeLong(std::vector<uint32_t>* symbols) const;

  // Tells this model's words from others' in the threads' caches.
  uint64_t serial_;
  // Token bytes by id. The keys of ids_ are views of these; moving the vector keeps them valid.
  std::vector<std::string> bytes_;
  absl::flat_hash_map<std::string_view, uint32_t> ids_;
  // Ids of the tokens that Encode makes of their own bytes: most words of most texts.
  std::vector<bool> whole_;
  std::array<int64_t, 256> byte_ids_;  // -1: no token for that byte
  MergeTable merges_;
  bool ignore_merges_;
  bool fuse_unknown_;
  std::optional<uint32_t> unknown_id_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_BPE_MODEL_H_
