#include "cache_server/tier/ram_tier.h"

#include <atomic>
#include <list>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "cache_server/chunk/buffer.h"
#include "glog/logging.h"

namespace tessera {
namespace {

// Bytes in use. Lives as long as the last piece that counts on it, which may be after the tier.
using UsedBytes = std::atomic<uint64_t>;

// One piece, first as room for a writer, then as an entry. Shared by the index and by the handles;
// who drops it last frees the bytes, on whatever thread that is.
struct Piece {
  Piece(std::shared_ptr<UsedBytes> counted_in, uint64_t counted)
      : used(std::move(counted_in)), counted_bytes(counted) {}
  ~Piece() {
    buffer = Buffer();  // freed before it is counted as free: never more memory than the limit
    used->fetch_sub(counted_bytes);
  }
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;

  const std::shared_ptr<UsedBytes> used;
  const uint64_t counted_bytes;
  PieceShape shape;
  Buffer buffer;  // empty until there is memory for it
  std::vector<uint64_t> checksums;
};

ReadHandle MakeReadHandle(std::shared_ptr<const Piece> piece) {
  const Piece& pinned = *piece;
  return ReadHandle(pinned.shape, pinned.buffer.view().data(), pinned.checksums.data(),
                    std::move(piece));
}

uint64_t RoundUpToPages(uint64_t bytes) {
  return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
}

// Invariants, under the mutex: every entry is in `index_` and in `recency_` (most recent first), or
// in neither. A piece of the index is pinned exactly when somebody else shares it. Only the index
// hands out new shares, under the mutex, so a use count of 1 seen there means that nobody can pin
// it meanwhile.
// `*used_` grows under the mutex only (so the limit holds), and shrinks whenever a piece is
// dropped.
class RamTier : public Tier {
 public:
  explicit RamTier(const RamTierOptions& options)
      : capacity_(options.capacity_bytes), used_(std::make_shared<UsedBytes>(0)) {}

  std::vector<ChunkKey> FindMissing(absl::Span<const ChunkKey> keys) override {
    std::vector<ChunkKey> missing;
    absl::MutexLock lock(&mutex_);
    for (const ChunkKey& key : keys) {
      if (!index_.contains(key)) missing.push_back(key);
    }
    return missing;
  }

  absl::StatusOr<ReadHandle> Get(const ChunkKey& key) override {
    absl::MutexLock lock(&mutex_);
    const auto found = index_.find(key);
    if (found == index_.end()) return absl::NotFoundError("not in RAM");
    recency_.splice(recency_.begin(), recency_, found->second.recency);
    return MakeReadHandle(found->second.piece);
  }

  absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape) override {
    if (!IsValidShape(shape)) return absl::InvalidArgumentError("impossible sizes of a piece");
    ASSIGN_OR_RETURN(std::shared_ptr<Piece> piece, Reserve(key, shape));
    if (piece->buffer.size() != shape.bytes()) {
      ASSIGN_OR_RETURN(piece->buffer, Buffer::Allocate(shape.bytes()));
    }
    piece->checksums.resize(shape.layers);
    Piece& room = *piece;
    return WriteHandle(this, key, shape, room.buffer.mutable_view().data(), room.checksums.data(),
                       std::move(piece));
  }

  absl::StatusOr<ReadHandle> Commit(WriteHandle handle) override {
    CHECK(handle.tier() == this) << "a handle of another tier";
    auto piece = std::static_pointer_cast<Piece>(handle.room());
    absl::MutexLock lock(&mutex_);
    const auto [position, is_new] = index_.try_emplace(handle.key());
    if (!is_new) return absl::AlreadyExistsError("already in RAM");
    recency_.push_front(handle.key());
    position->second = {.piece = piece, .recency = recency_.begin()};
    return MakeReadHandle(std::move(piece));
  }

  absl::Status Erase(const ChunkKey& key) override {
    std::shared_ptr<const Piece> erased;  // freed after the mutex is
    absl::MutexLock lock(&mutex_);
    const auto found = index_.find(key);
    if (found == index_.end()) return absl::OkStatus();
    erased = std::move(found->second.piece);
    recency_.erase(found->second.recency);
    index_.erase(found);
    return absl::OkStatus();
  }

  TierStats Stats() const override {
    absl::MutexLock lock(&mutex_);
    TierStats stats;
    stats.name = "ram";
    stats.capacity_bytes = capacity_;
    stats.used_bytes = used_->load();
    stats.entries = index_.size();
    stats.evictions = evictions_;
    return stats;
  }

 private:
  struct Entry {
    std::shared_ptr<Piece> piece;
    std::list<ChunkKey>::iterator recency;
  };

  // A piece that counts its bytes as used. Its buffer is that of an evicted piece, where one of the
  // same size had to go, or empty.
  absl::StatusOr<std::shared_ptr<Piece>> Reserve(const ChunkKey& key, PieceShape shape) {
    const uint64_t bytes = RoundUpToPages(shape.bytes());
    absl::MutexLock lock(&mutex_);
    if (index_.contains(key)) return absl::AlreadyExistsError("already in RAM");
    Buffer reused;
    if (bytes > capacity_ || !EvictUntilFree(bytes, shape.bytes(), &reused)) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no room for ", bytes, " bytes: ", used_->load(), " of ", capacity_, " used"));
    }
    used_->fetch_add(bytes);
    auto piece = std::make_shared<Piece>(used_, bytes);
    piece->shape = shape;
    piece->buffer = std::move(reused);
    return piece;
  }

  // Evicts until `bytes` more may be used; false if what is left is pinned. Hands out the memory of
  // an evicted piece of exactly `buffer_bytes`, if there is one: fresh memory costs a page fault
  // for every 4 KiB, and the pieces of one model all have the same size.
  bool EvictUntilFree(uint64_t bytes, uint64_t buffer_bytes, Buffer* reused)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    auto oldest = recency_.end();
    while (used_->load() > capacity_ - bytes) {
      // Pinned pieces are passed over: dropping them would free nothing now.
      auto entry = index_.end();
      do {
        if (oldest == recency_.begin()) return false;
        --oldest;
        entry = index_.find(*oldest);
      } while (entry->second.piece.use_count() > 1);
      Buffer& freed = entry->second.piece->buffer;
      if (freed.size() == buffer_bytes) *reused = std::move(freed);
      index_.erase(entry);
      oldest = recency_.erase(oldest);
      ++evictions_;
    }
    return true;
  }

  const uint64_t capacity_;
  const std::shared_ptr<UsedBytes> used_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<ChunkKey, Entry> index_ ABSL_GUARDED_BY(mutex_);
  std::list<ChunkKey> recency_ ABSL_GUARDED_BY(mutex_);
  uint64_t evictions_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

std::unique_ptr<Tier> MakeRamTier(const RamTierOptions& options) {
  return std::make_unique<RamTier>(options);
}

}  // namespace tessera
