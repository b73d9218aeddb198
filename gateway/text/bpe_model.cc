#include "gateway/text/bpe_model.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <queue>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"

namespace tessera {
namespace {

// Up to here a scan for the best pair beats a heap.
constexpr size_t kShortWord = 48;

// Ids of words that are several tokens, direct-mapped: a word displaces the one in its place.
class WordCache {
 public:
  struct Entry {
    uint64_t serial = 0;  // the model's
    uint8_t size = 0;
    uint8_t count = 0;
    std::array<char, 38> word;
    std::array<uint32_t, 20> ids;
  };

  // The place of a word with this hash, whatever is in it.
  Entry* Find(uint64_t serial, uint64_t hash) {
    if (entries_.empty()) entries_.resize(kEntries);
    return &entries_[(hash ^ serial) % kEntries];
  }

  static bool Holds(const Entry& entry, uint64_t serial, std::string_view word) {
    return entry.serial == serial && entry.size == word.size() &&
           SameBytes(entry.word.data(), word.data(), word.size());
  }

  static void Store(uint64_t serial, std::string_view word, std::span<const uint32_t> ids,
                    Entry* entry) {
    if (word.size() > entry->word.size() || ids.size() > entry->ids.size()) return;
    entry->serial = serial;
    entry->size = static_cast<uint8_t>(word.size());
    entry->count = static_cast<uint8_t>(ids.size());
    std::copy(word.begin(), word.end(), entry->word.begin());
    std::copy(ids.begin(), ids.end(), entry->ids.begin());
  }

 private:
  static constexpr size_t kEntries = 4096;
  std::vector<Entry> entries_;
};

thread_local WordCache word_cache;

uint64_t NextSerial() {
  static std::atomic<uint64_t> serial{0};
  return ++serial;
}

}  // namespace

BpeModel::BpeModel(const BpeSpec& spec)
    : serial_(NextSerial()),
      merges_(spec.merges.size()),
      ignore_merges_(spec.ignore_merges),
      fuse_unknown_(spec.fuse_unknown) {}

absl::StatusOr<BpeModel> BpeModel::Create(const BpeSpec& spec) {
  BpeModel model(spec);
  RETURN_IF_ERROR(model.AddVocabulary(spec));
  RETURN_IF_ERROR(model.AddMerges(spec));
  model.FindBytePairs();
  model.FindWholeWords();
  return model;
}

absl::Status BpeModel::AddVocabulary(const BpeSpec& spec) {
  uint32_t largest = 0;
  for (const auto& [token, id] : spec.vocabulary) {
    if (id > TokenTable::kLargestId) {
      return absl::InvalidArgumentError(Concat("token id ", id, " is too large"));
    }
    largest = std::max(largest, id);
  }
  tokens_.Reserve(spec.vocabulary.size(), largest);
  for (const auto& [token, id] : spec.vocabulary) {
    if (token.empty() || !tokens_.Insert(token, id)) {
      return absl::InvalidArgumentError(
          Concat("token id ", id, " (\"", absl::CHexEscape(token), "\") is empty or comes twice"));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char letter = static_cast<char>(byte);
    const auto id = Find(std::string_view(&letter, 1));
    byte_ids_[byte] = id.has_value() ? static_cast<int64_t>(*id) : -1;
  }
  if (spec.unknown_token.has_value()) unknown_id_ = Find(*spec.unknown_token);
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerges(const BpeSpec& spec) {
  uint32_t rank = 0;
  for (const auto& [left, right] : spec.merges) {
    const auto left_id = Find(left), right_id = Find(right), merged_id = Find(left + right);
    if (!left_id || !right_id || !merged_id) {
      return absl::InvalidArgumentError(Concat("merge ", rank, " (\"", absl::CHexEscape(left),
                                               "\", \"", absl::CHexEscape(right),
                                               "\") is not made of tokens of the vocabulary"));
    }
    // A pair that comes twice keeps its first, better rank.
    merges_.Insert(*left_id, *right_id, rank++, *merged_id);
  }
  return absl::OkStatus();
}

void BpeModel::FindBytePairs() {
  if (std::count(byte_ids_.begin(), byte_ids_.end(), -1) > 0) return;
  byte_pairs_.resize(256 * 256);
  for (size_t i = 0; i < byte_pairs_.size(); ++i) {
    byte_pairs_[i] = merges_.Find(static_cast<uint32_t>(byte_ids_[i / 256]),
                                  static_cast<uint32_t>(byte_ids_[i % 256]));
  }
}

void BpeModel::FindWholeWords() {
  std::vector<uint32_t> ids;
  for (uint32_t id = 0; id < tokens_.size(); ++id) {
    if (tokens_.Bytes(id).empty()) continue;
    ids.clear();
    if (!ignore_merges_) EncodeParts(tokens_.Bytes(id), &ids);
    if (ignore_merges_ || (ids.size() == 1 && ids[0] == id)) tokens_.Mark(id);
  }
}

std::optional<uint32_t> BpeModel::Find(std::string_view token) const {
  const uint32_t id = tokens_.Find(token, HashWord(token)).id;
  if (id == TokenTable::kNone) return std::nullopt;
  return id;
}

void BpeModel::Encode(std::string_view word, std::vector<uint32_t>* ids) const {
  const uint64_t hash = HashWord(word);
  const TokenTable::Entry token = tokens_.Find(word, hash);
  if (token.marked) {
    ids->push_back(token.id);
    return;
  }
  WordCache::Entry* entry = word_cache.Find(serial_, hash);
  if (WordCache::Holds(*entry, serial_, word)) {
    ids->insert(ids->end(), entry->ids.begin(), entry->ids.begin() + entry->count);
    return;
  }
  const size_t begin = ids->size();
  EncodeParts(word, ids);
  WordCache::Store(serial_, word, std::span(*ids).subspan(begin), entry);
}

void BpeModel::EncodeParts(std::string_view word, std::vector<uint32_t>* ids) const {
  const size_t begin = ids->size();
  AppendSymbols(word, ids);
  const auto symbols = std::span(*ids).subspan(begin);
  if (symbols.size() < 2) return;
  const size_t left = symbols.size() <= kShortWord ? MergeShort(word, symbols) : MergeLong(symbols);
  ids->resize(begin + left);
}

void BpeModel::AppendSymbols(std::string_view word, std::vector<uint32_t>* ids) const {
  bool was_unknown = false;
  for (const char letter : word) {
    const int64_t id = byte_ids_[static_cast<uint8_t>(letter)];
    if (id >= 0) {
      ids->push_back(static_cast<uint32_t>(id));
    } else if (unknown_id_.has_value() && !(fuse_unknown_ && was_unknown)) {
      ids->push_back(*unknown_id_);
    }
    was_unknown = id < 0;
  }
}

size_t BpeModel::MergeShort(std::string_view word, std::span<uint32_t> symbols) const {
  size_t count = symbols.size();
  uint32_t* id = symbols.data();
  std::array<Merge, kShortWord> pair;  // pair[i]: the merge of symbols i and i + 1
  for (size_t i = 0; i + 1 < count; ++i) {
    // Where every byte has a token, the symbols are just the bytes.
    pair[i] =
        byte_pairs_.empty()
            ? merges_.Find(id[i], id[i + 1])
            : byte_pairs_[static_cast<uint8_t>(word[i]) * 256 + static_cast<uint8_t>(word[i + 1])];
  }
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pair[i].rank < pair[best].rank) best = i;
    }
    if (pair[best].rank == MergeTable::kNoRank) break;
    id[best] = pair[best].merged;
    std::copy(id + best + 2, id + count, id + best + 1);
    std::copy(pair.begin() + best + 1, pair.begin() + (count - 1), pair.begin() + best);
    --count;
    if (best > 0) pair[best - 1] = merges_.Find(id[best - 1], id[best]);
    if (best + 1 < count) pair[best] = merges_.Find(id[best], id[best + 1]);
  }
  return count;
}

// The symbols are a doubly linked list, the pairs that merge a heap ordered by rank and place. What
// comes up from the heap counts only if the pair at that place still has that rank.
size_t BpeModel::MergeLong(std::span<uint32_t> symbols) const {
  constexpr uint32_t kEnd = UINT32_MAX;
  const auto count = static_cast<uint32_t>(symbols.size());
  struct Node {
    uint32_t previous, next;
    Merge merge;  // of this symbol and the next
  };
  std::vector<Node> nodes(count);
  std::vector<uint64_t> heap;  // rank << 32 | place
  heap.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    nodes[i] = {i > 0 ? i - 1 : kEnd, i + 1, {MergeTable::kNoRank, 0}};
    if (i + 1 == count) continue;
    nodes[i].merge = merges_.Find(symbols[i], symbols[i + 1]);
    const uint64_t rank = nodes[i].merge.rank;
    if (rank != MergeTable::kNoRank) heap.push_back(rank << 32 | i);
  }
  nodes[count - 1].next = kEnd;
  std::priority_queue queue(std::greater<uint64_t>(), std::move(heap));
  const auto look_up = [&](uint32_t at) {
    const uint32_t next = nodes[at].next;
    nodes[at].merge =
        next == kEnd ? Merge{MergeTable::kNoRank, 0} : merges_.Find(symbols[at], symbols[next]);
    const uint64_t rank = nodes[at].merge.rank;
    if (rank != MergeTable::kNoRank) queue.push(rank << 32 | at);
  };
  while (!queue.empty()) {
    const auto rank = static_cast<uint32_t>(queue.top() >> 32);
    const auto at = static_cast<uint32_t>(queue.top());
    queue.pop();
    if (nodes[at].merge.rank != rank) continue;
    const uint32_t gone = nodes[at].next;
    symbols[at] = nodes[at].merge.merged;
    nodes[gone].merge.rank = MergeTable::kNoRank;
    nodes[at].next = nodes[gone].next;
    if (nodes[at].next != kEnd) nodes[nodes[at].next].previous = at;
    look_up(at);
    if (nodes[at].previous != kEnd) look_up(nodes[at].previous);
  }
  size_t left = 0;
  for (uint32_t at = 0; at != kEnd; at = nodes[at].next) symbols[left++] = symbols[at];
  return left;
}

}  // namespace tessera
