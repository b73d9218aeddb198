#include "gpu_worker/blend/resident_prefixes.h"

#include <algorithm>
#include <iterator>

#include "glog/logging.h"

namespace tessera {

ResidentPrefixes::ResidentPrefixes(KvPool* pool, int64_t tokens_per_piece)
    : pool_(*pool),
      blocks_per_piece_(tokens_per_piece % KvPool::kBlockSlots == 0
                            ? tokens_per_piece / KvPool::kBlockSlots
                            : 0) {}

ResidentPrefixes::~ResidentPrefixes() {
  for (const Piece& piece : pieces_) {
    for (const int32_t block : piece.blocks) pool_.Release(block);
  }
}

int64_t ResidentPrefixes::Count(absl::Span<const ChunkKey> keys) const {
  int64_t count = 0;
  for (const ChunkKey& key : keys) {
    if (!by_key_.contains(key)) break;
    ++count;
  }
  return count;
}

int64_t ResidentPrefixes::Share(absl::Span<const ChunkKey> keys, KvMemory* kv) {
  CHECK(kv->blocks().empty());
  const int64_t count = Count(keys);
  for (int64_t i = 0; i < count; ++i) kv->Share(by_key_.at(keys[i])->blocks);
  // The first piece is touched last: a later one is of no use without those before it.
  for (int64_t i = count - 1; i >= 0; --i) Touch(by_key_.at(keys[i]));
  return count;
}

void ResidentPrefixes::Add(absl::Span<const ChunkKey> keys, const KvMemory& kv) {
  if (blocks_per_piece_ == 0) return;
  for (auto i = static_cast<int64_t>(keys.size()) - 1; i >= 0; --i) {
    const auto known = by_key_.find(keys[i]);
    if (known != by_key_.end()) {
      Touch(known->second);
      continue;
    }
    const auto blocks =
        absl::MakeConstSpan(kv.blocks()).subspan(i * blocks_per_piece_, blocks_per_piece_);
    for (const int32_t block : blocks) pool_.AddReference(block);
    pieces_.push_front({keys[i], {blocks.begin(), blocks.end()}});
    by_key_[keys[i]] = pieces_.begin();
  }
}

bool ResidentPrefixes::IsIdle(const Piece& piece) const {
  return std::all_of(piece.blocks.begin(), piece.blocks.end(),
                     [this](int32_t block) { return pool_.references(block) == 1; });
}

int64_t ResidentPrefixes::BusyBlocks(absl::Span<const ChunkKey> keys) const {
  int64_t blocks = 0;
  for (const ChunkKey& key : keys) {
    const auto piece = by_key_.find(key);
    if (piece == by_key_.end()) break;
    if (!IsIdle(*piece->second)) blocks += blocks_per_piece_;
  }
  return blocks;
}

int64_t ResidentPrefixes::idle_blocks() const {
  int64_t blocks = 0;
  for (const Piece& piece : pieces_) {
    if (IsIdle(piece)) blocks += blocks_per_piece_;
  }
  return blocks;
}

void ResidentPrefixes::MakeRoom(int64_t free_blocks) {
  for (auto last = pieces_.end(); last != pieces_.begin() && pool_.free_blocks() < free_blocks;) {
    const auto piece = std::prev(last);
    if (!IsIdle(*piece)) {
      last = piece;
      continue;
    }
    for (const int32_t block : piece->blocks) pool_.Release(block);
    by_key_.erase(piece->key);
    last = pieces_.erase(piece);
  }
}

}  // namespace tessera
