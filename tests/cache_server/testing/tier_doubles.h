// Tiers that stand in for real ones in tests: failing, blocking, and counting pins.
#ifndef TESSERA_TESTS_CACHE_SERVER_TESTING_TIER_DOUBLES_H_
#define TESSERA_TESTS_CACHE_SERVER_TESTING_TIER_DOUBLES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cache_server/tier/tier.h"

namespace tessera::testing {

// What a test does to a WrappedTier; outlives the tier, and may be changed while it is used.
class TierControl {
 public:
  // From now on, Get and Allocate return these instead of asking the tier, unless OK.
  void FailGets(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    get_status_ = std::move(status);
  }
  void FailAllocates(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    allocate_status_ = std::move(status);
  }

  // From now on, Get and Commit wait at a gate; OpenGate lets all through.
  void CloseGate() {
    absl::MutexLock lock(&mutex_);
    gate_open_ = false;
  }
  void OpenGate() {
    absl::MutexLock lock(&mutex_);
    gate_open_ = true;
  }
  // Waits until `count` calls stand at the gate.
  void WaitForArrivals(int count) {
    absl::MutexLock lock(&mutex_);
    auto arrived = [this, count]()
                       ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return waiting_ >= count; };
    mutex_.Await(absl::Condition(&arrived));
  }

  int gets() const {
    absl::MutexLock lock(&mutex_);
    return gets_;
  }

  // Pieces that a reader holds now.
  int pins() const {
    absl::MutexLock lock(&mutex_);
    return pins_;
  }
  // Waits until nobody holds a piece. False: somebody still does after `timeout`.
  bool WaitForNoPins(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return pins_ == 0; };
    return mutex_.AwaitWithTimeout(absl::Condition(&none), timeout);
  }

 private:
  friend class WrappedTier;

  void PassGate() {
    absl::MutexLock lock(&mutex_);
    ++waiting_;
    mutex_.Await(absl::Condition(&gate_open_));
    --waiting_;
  }
  absl::Status StartGet() {
    absl::MutexLock lock(&mutex_);
    ++gets_;
    return get_status_;
  }
  absl::Status StartAllocate() {
    absl::MutexLock lock(&mutex_);
    return allocate_status_;
  }
  void AddPins(int count) {
    absl::MutexLock lock(&mutex_);
    pins_ += count;
  }

  mutable absl::Mutex mutex_;
  absl::Status get_status_ ABSL_GUARDED_BY(mutex_);
  absl::Status allocate_status_ ABSL_GUARDED_BY(mutex_);
  bool gate_open_ ABSL_GUARDED_BY(mutex_) = true;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  int gets_ ABSL_GUARDED_BY(mutex_) = 0;
  int pins_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A tier under a test's control.
class WrappedTier : public Tier {
 public:
  WrappedTier(std::unique_ptr<Tier> tier, std::shared_ptr<TierControl> control)
      : tier_(std::move(tier)), control_(std::move(control)) {}

  std::optional<PieceShape> Find(const ChunkKey& key) override { return tier_->Find(key); }
  absl::StatusOr<ReadHandle> Get(const ChunkKey& key) override {
    const absl::Status status = control_->StartGet();
    control_->PassGate();
    if (!status.ok()) return status;
    absl::StatusOr<ReadHandle> handle = tier_->Get(key);
    if (!handle.ok()) return handle;
    return Count(*std::move(handle));
  }
  absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape,
                                       const Tenant& tenant) override {
    const absl::Status status = control_->StartAllocate();
    if (!status.ok()) return status;
    return tier_->Allocate(key, shape, tenant);
  }
  absl::StatusOr<ReadHandle> Commit(WriteHandle handle) override {
    control_->PassGate();
    return tier_->Commit(std::move(handle));
  }
  absl::Status Erase(const ChunkKey& key) override { return tier_->Erase(key); }
  absl::Status Flush() override { return tier_->Flush(); }
  std::vector<TierEntry> List() const override { return tier_->List(); }
  TierStats Stats() const override { return tier_->Stats(); }

 private:
  struct Held {
    ReadHandle handle;
    std::vector<const std::byte*> slices;
  };

  // The same piece, whose pin tells the control when it goes.
  ReadHandle Count(ReadHandle handle) {
    control_->AddPins(1);
    auto release = [control = control_](const Held* held) {
      delete held;
      control->AddPins(-1);
    };
    auto* held = new Held{std::move(handle), {}};
    const ReadHandle& piece = held->handle;
    for (uint32_t layer = 0; layer < piece.layers(); ++layer) {
      held->slices.push_back(piece.slice(layer).data());
    }
    return ReadHandle(piece.shape(), held->slices.data(), piece.checksums(),
                      std::shared_ptr<const Held>(held, release), piece.tenant());
  }

  std::unique_ptr<Tier> tier_;
  const std::shared_ptr<TierControl> control_;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TESTING_TIER_DOUBLES_H_
