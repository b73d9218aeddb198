#include "cache_server/tier/metered_tier.h"

#include <atomic>
#include <utility>

namespace tessera {
namespace {

class MeteredTier : public Tier {
 public:
  explicit MeteredTier(std::unique_ptr<Tier> tier) : tier_(std::move(tier)) {}

  std::vector<ChunkKey> FindMissing(absl::Span<const ChunkKey> keys) override {
    return tier_->FindMissing(keys);
  }

  absl::StatusOr<ReadHandle> Get(const ChunkKey& key) override {
    absl::StatusOr<ReadHandle> handle = tier_->Get(key);
    if (handle.ok()) {
      Add(&hits_, 1);
      Add(&read_bytes_, handle->shape().bytes());
    } else {
      Add(&misses_, 1);
    }
    return handle;
  }

  absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape) override {
    absl::StatusOr<WriteHandle> handle = tier_->Allocate(key, shape);
    if (absl::IsResourceExhausted(handle.status())) Add(&refused_, 1);
    return handle;
  }

  absl::StatusOr<ReadHandle> Commit(WriteHandle handle) override {
    absl::StatusOr<ReadHandle> committed = tier_->Commit(std::move(handle));
    if (committed.ok()) Add(&written_bytes_, committed->shape().bytes());
    return committed;
  }

  absl::Status Erase(const ChunkKey& key) override { return tier_->Erase(key); }

  TierStats Stats() const override {
    TierStats stats = tier_->Stats();
    stats.hits = hits_.load(std::memory_order_relaxed);
    stats.misses = misses_.load(std::memory_order_relaxed);
    stats.read_bytes = read_bytes_.load(std::memory_order_relaxed);
    stats.written_bytes = written_bytes_.load(std::memory_order_relaxed);
    stats.refused = refused_.load(std::memory_order_relaxed);
    return stats;
  }

 private:
  static void Add(std::atomic<uint64_t>* counter, uint64_t amount) {
    counter->fetch_add(amount, std::memory_order_relaxed);
  }

  const std::unique_ptr<Tier> tier_;
  std::atomic<uint64_t> hits_{0};
  std::atomic<uint64_t> misses_{0};
  std::atomic<uint64_t> read_bytes_{0};
  std::atomic<uint64_t> written_bytes_{0};
  std::atomic<uint64_t> refused_{0};
};

}  // namespace

std::unique_ptr<Tier> MakeMeteredTier(std::unique_ptr<Tier> tier) {
  return std::make_unique<MeteredTier>(std::move(tier));
}

}  // namespace tessera
