#include "gateway/text/bpe_model.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <queue>
#include <tuple>

#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"

namespace tessera {
namespace {

// Up to here a scan for the best pair beats a heap.
constexpr size_t kShortWord = 48;
// Ids beyond this would make a table of nothing but holes.
constexpr uint32_t kLargestId = 1u << 24;
constexpr uint64_t kNoKey = UINT64_MAX;

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

  // The place of `word`, whatever is in it; null for a word too long to keep.
  Entry* Find(uint64_t serial, std::string_view word) {
    if (word.size() > Entry().word.size()) return nullptr;
    if (entries_.empty()) entries_.resize(kEntries);
    return &entries_[(absl::Hash<std::string_view>()(word) ^ serial) % kEntries];
  }

  static bool Holds(const Entry& entry, uint64_t serial, std::string_view word) {
    return entry.serial == serial && std::string_view(entry.word.data(), entry.size) == word;
  }

  static void Store(uint64_t serial, std::string_view word, const std::vector<uint32_t>& ids,
                    Entry* entry) {
    if (ids.size() > entry->ids.size()) return;
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

BpeModel::MergeTable::MergeTable(size_t count) {
  const size_t size = std::bit_ceil(std::max<size_t>(count * 2, 16));
  slots_.assign(size, {kNoKey, {kNoRank, 0}});
  shift_ = 64 - std::countr_zero(size);
}

size_t BpeModel::MergeTable::Start(uint64_t key) const {
  return static_cast<size_t>((key * 0x9e3779b97f4a7c15u) >> shift_);
}

bool BpeModel::MergeTable::Insert(uint32_t left, uint32_t right, Merge merge) {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | right;
  size_t at = Start(key);
  while (slots_[at].key != kNoKey) {
    if (slots_[at].key == key) return false;
    at = (at + 1) & (slots_.size() - 1);
  }
  slots_[at] = {key, merge};
  return true;
}

BpeModel::Merge BpeModel::MergeTable::Find(uint32_t left, uint32_t right) const {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | right;
  size_t at = Start(key);
  while (slots_[at].key != key && slots_[at].key != kNoKey) at = (at + 1) & (slots_.size() - 1);
  return slots_[at].merge;
}

BpeModel::BpeModel(const BpeSpec& spec)
    : serial_(NextSerial()),
      merges_(spec.merges.size()),
      ignore_merges_(spec.ignore_merges),
      fuse_unknown_(spec.fuse_unknown) {}

absl::StatusOr<BpeModel> BpeModel::Create(const BpeSpec& spec) {
  BpeModel model(spec);
  RETURN_IF_ERROR(model.AddVocabulary(spec));
  RETURN_IF_ERROR(model.AddMerges(spec));
  model.FindWholeWords();
  return model;
}

absl::Status BpeModel::AddVocabulary(const BpeSpec& spec) {
  uint32_t largest = 0;
  for (const auto& [token, id] : spec.vocabulary) {
    if (id > kLargestId)
      return absl::InvalidArgumentError(Concat("token id ", id, " is too large"));
    largest = std::max(largest, id);
  }
  bytes_.resize(spec.vocabulary.empty() ? 0 : largest + 1);
  ids_.reserve(spec.vocabulary.size());
  for (const auto& [token, id] : spec.vocabulary) {
    if (token.empty() || !bytes_[id].empty()) {
      return absl::InvalidArgumentError(Concat("token id ", id, " is empty or comes twice"));
    }
    bytes_[id] = token;
    if (!ids_.emplace(bytes_[id], id).second) {
      return absl::InvalidArgumentError(
          Concat("token \"", absl::CHexEscape(token), "\" comes twice"));
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
    merges_.Insert(*left_id, *right_id, {rank++, *merged_id});
  }
  return absl::OkStatus();
}

void BpeModel::FindWholeWords() {
  whole_.assign(bytes_.size(), ignore_merges_);
  for (uint32_t id = 0; id < bytes_.size() && !ignore_merges_; ++id) {
    if (bytes_[id].empty()) continue;
    const std::vector<uint32_t> ids = EncodeParts(bytes_[id]);
    whole_[id] = ids.size() == 1 && ids[0] == id;
  }
}

std::optional<uint32_t> BpeModel::Find(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

std::string_view BpeModel::Bytes(uint32_t id) const {
  return id < bytes_.size() ? std::string_view(bytes_[id]) : std::string_view();
}

void BpeModel::Encode(std::string_view word, std::vector<uint32_t>* ids) const {
  const auto it = ids_.find(word);
  if (it != ids_.end() && whole_[it->second]) {
    ids->push_back(it->second);
    return;
  }
  WordCache::Entry* entry = word_cache.Find(serial_, word);
  if (entry != nullptr && WordCache::Holds(*entry, serial_, word)) {
    ids->insert(ids->end(), entry->ids.begin(), entry->ids.begin() + entry->count);
    return;
  }
  const std::vector<uint32_t> symbols = EncodeParts(word);
  if (entry != nullptr) WordCache::Store(serial_, word, symbols, entry);
  ids->insert(ids->end(), symbols.begin(), symbols.end());
}

std::vector<uint32_t> BpeModel::EncodeParts(std::string_view word) const {
  std::vector<uint32_t> symbols = Symbols(word);
  if (symbols.size() <= kShortWord) {
    MergeShort(&symbols);
  } else {
    MergeLong(&symbols);
  }
  return symbols;
}

std::vector<uint32_t> BpeModel::Symbols(std::string_view word) const {
  std::vector<uint32_t> symbols;
  symbols.reserve(word.size());
  bool was_unknown = false;
  for (const char letter : word) {
    const int64_t id = byte_ids_[static_cast<uint8_t>(letter)];
    if (id >= 0) {
      symbols.push_back(static_cast<uint32_t>(id));
    } else if (unknown_id_.has_value() && !(fuse_unknown_ && was_unknown)) {
      symbols.push_back(*unknown_id_);
    }
    was_unknown = id < 0;
  }
  return symbols;
}

void BpeModel::MergeShort(std::vector<uint32_t>* symbols) const {
  size_t count = symbols->size();
  if (count < 2) return;
  uint32_t* id = symbols->data();
  std::array<Merge, kShortWord> pair;  // pair[i]: the merge of symbols i and i + 1
  for (size_t i = 0; i + 1 < count; ++i) pair[i] = merges_.Find(id[i], id[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pair[i].rank < pair[best].rank) best = i;
    }
    if (pair[best].rank == kNoRank) break;
    id[best] = pair[best].id;
    std::copy(id + best + 2, id + count, id + best + 1);
    std::copy(pair.begin() + best + 1, pair.begin() + (count - 1), pair.begin() + best);
    --count;
    if (best > 0) pair[best - 1] = merges_.Find(id[best - 1], id[best]);
    if (best + 1 < count) pair[best] = merges_.Find(id[best], id[best + 1]);
  }
  symbols->resize(count);
}

// The symbols are a doubly linked list, the pairs that merge a heap ordered by (rank, place). A
// pair whose symbols have changed since it was pushed is skipped when it comes up.
void BpeModel::MergeLong(std::vector<uint32_t>* symbols) const {
  constexpr uint32_t kEnd = UINT32_MAX;
  constexpr uint32_t kGone = UINT32_MAX;
  std::vector<uint32_t>& id = *symbols;
  const auto count = static_cast<uint32_t>(id.size());
  std::vector<uint32_t> next(count), previous(count);
  using Candidate = std::tuple<uint32_t, uint32_t, uint32_t, uint32_t>;  // rank, at, left, right
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<Candidate>> heap;
  const auto push = [&](uint32_t at, uint32_t right) {
    const Merge merge = merges_.Find(id[at], id[right]);
    if (merge.rank != kNoRank) heap.emplace(merge.rank, at, id[at], id[right]);
  };
  for (uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? i + 1 : kEnd;
    previous[i] = i > 0 ? i - 1 : kEnd;
    if (i + 1 < count) push(i, i + 1);
  }
  while (!heap.empty()) {
    const auto [rank, at, left, right] = heap.top();
    heap.pop();
    const uint32_t second = next[at];
    if (id[at] != left || second == kEnd || id[second] != right) continue;
    id[at] = merges_.Find(left, right).id;
    id[second] = kGone;
    next[at] = next[second];
    if (next[at] != kEnd) {
      previous[next[at]] = at;
      push(at, next[at]);
    }
    if (previous[at] != kEnd) push(previous[at], at);
  }
  std::erase(id, kGone);
}

}  // namespace tessera
