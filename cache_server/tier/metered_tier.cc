#include "cache_server/tier/metered_tier.h"

#include <atomic>
#include <chrono>
#include <utility>

namespace tessera {
namespace {

// Measures one call from its making on.
class CallTimer {
 public:
  using Clock = std::chrono::steady_clock;

  CallTimer(TierObserver* observer, TierCall call) : observer_(observer), call_(call) {
    if (observer_ != nullptr) start_ = Clock::now();
  }
  void Ended(bool ok, uint64_t bytes) const {
    if (observer_ == nullptr) return;
    observer_->Observed(call_, absl::FromChrono(Clock::now() - start_), ok, bytes);
  }

 private:
  TierObserver* const observer_;
  const TierCall call_;
  Clock::time_point start_;
};

class MeteredTier : public Tier {
 public:
  MeteredTier(std::unique_ptr<Tier> tier, std::shared_ptr<TierObserver> observer)
      : tier_(std::move(tier)), observer_(std::move(observer)) {}

  std::optional<PieceShape> Find(const ChunkKey& key) override { return tier_->Find(key); }

  absl::StatusOr<ReadHandle> Get(const ChunkKey& key) override {
    const CallTimer timer(observer_.get(), TierCall::kGet);
    absl::StatusOr<ReadHandle> handle = tier_->Get(key);
    const uint64_t bytes = handle.ok() ? handle->shape().bytes() : 0;
    Add(handle.ok() ? &hits_ : &misses_, 1);
    Add(&read_bytes_, bytes);
    timer.Ended(handle.ok(), bytes);
    return handle;
  }

  absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape,
                                       const Tenant& tenant) override {
    const CallTimer timer(observer_.get(), TierCall::kAllocate);
    absl::StatusOr<WriteHandle> handle = tier_->Allocate(key, shape, tenant);
    if (absl::IsResourceExhausted(handle.status())) Add(&refused_, 1);
    timer.Ended(handle.ok(), handle.ok() ? shape.bytes() : 0);
    return handle;
  }

  absl::StatusOr<ReadHandle> Commit(WriteHandle handle) override {
    const CallTimer timer(observer_.get(), TierCall::kCommit);
    absl::StatusOr<ReadHandle> committed = tier_->Commit(std::move(handle));
    const uint64_t bytes = committed.ok() ? committed->shape().bytes() : 0;
    Add(&written_bytes_, bytes);
    timer.Ended(committed.ok(), bytes);
    return committed;
  }

  absl::Status Erase(const ChunkKey& key) override {
    const CallTimer timer(observer_.get(), TierCall::kErase);
    absl::Status status = tier_->Erase(key);
    timer.Ended(status.ok(), 0);
    return status;
  }

  absl::Status Flush() override {
    const CallTimer timer(observer_.get(), TierCall::kFlush);
    absl::Status status = tier_->Flush();
    timer.Ended(status.ok(), 0);
    return status;
  }

  std::vector<TierEntry> List() const override { return tier_->List(); }

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
  const std::shared_ptr<TierObserver> observer_;
  std::atomic<uint64_t> hits_{0};
  std::atomic<uint64_t> misses_{0};
  std::atomic<uint64_t> read_bytes_{0};
  std::atomic<uint64_t> written_bytes_{0};
  std::atomic<uint64_t> refused_{0};
};

}  // namespace

const char* TierCallName(TierCall call) {
  switch (call) {
    case TierCall::kGet:
      return "get";
    case TierCall::kAllocate:
      return "allocate";
    case TierCall::kCommit:
      return "commit";
    case TierCall::kErase:
      return "erase";
    case TierCall::kFlush:
      return "flush";
  }
  return "unknown";
}

std::unique_ptr<Tier> MakeMeteredTier(std::unique_ptr<Tier> tier,
                                      std::shared_ptr<TierObserver> observer) {
  return std::make_unique<MeteredTier>(std::move(tier), std::move(observer));
}

}  // namespace tessera
