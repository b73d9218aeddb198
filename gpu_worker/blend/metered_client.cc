#include "gpu_worker/blend/metered_client.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace tessera {
namespace {

// A reader who spends less of its time on waiting than this finds out nothing about the link: what
// it waits for now and then is the machine's doing.
constexpr int kTellingShare = 4;

}  // namespace

class MeteredCacheClient::Stream final : public FetchStream {
 public:
  Stream(MeteredCacheClient* client, std::vector<uint64_t> slice_bytes)
      : client_(*client),
        slice_bytes_(std::move(slice_bytes)),
        layers_taken_(slice_bytes_.size(), 0) {}
  ~Stream() override {
    absl::MutexLock lock(&mutex_);
    if (said_ == absl::InfiniteFuture() || bytes_ == 0) return;
    const Listeners& listeners = client_.listeners_;
    if (listeners.fetches != nullptr) listeners.fetches->Observe(last_ - said_);
    if (listeners.costs == nullptr) return;
    const absl::Duration took = last_ - said_;
    listeners.costs->ObserveFetch(static_cast<int64_t>(bytes_), absl::ToDoubleSeconds(took),
                                  waited_ * kTellingShare >= took);
  }

  void Start(std::unique_ptr<FetchStream> real) { real_ = std::move(real); }

  std::vector<std::string> WaitForHeader() override {
    const absl::Time start = absl::Now();
    std::vector<std::string> tiers = real_->WaitForHeader();
    const absl::Time end = absl::Now();
    client_.AddWait(end - start);
    absl::MutexLock lock(&mutex_);
    if (said_ != absl::InfiniteFuture()) return tiers;
    said_ = last_ = end;
    if (client_.listeners_.lookups != nullptr) client_.listeners_.lookups->Observe(end - opened_);
    if (client_.listeners_.costs != nullptr) {
      client_.listeners_.costs->ObserveLookup(absl::ToDoubleSeconds(end - opened_));
    }
    return tiers;
  }

  bool WaitForSlice(size_t target, uint32_t layer) override {
    const absl::Time start = absl::Now();
    const bool came = real_->WaitForSlice(target, layer);
    const absl::Time end = absl::Now();
    client_.AddWait(end - start);
    absl::MutexLock lock(&mutex_);
    if (!came) return false;
    const absl::Time held_up_from = std::min(start, std::exchange(asked_, absl::InfiniteFuture()));
    if (Take(target, layer + 1, end)) waited_ += end - held_up_from;
    return true;
  }

  // Nobody waited for them.
  uint32_t ReadyLayers(size_t target) override {
    const uint32_t layers = real_->ReadyLayers(target);
    const absl::MutexLock lock(&mutex_);
    Take(target, layers, absl::Now());
    return layers;
  }

  bool HeaderReady() override { return real_->HeaderReady(); }

  // Who asks does other work meanwhile, and was held up from the first question on that was
  // answered with no.
  bool SliceReady(size_t target, uint32_t layer) override {
    const bool ready = real_->SliceReady(target, layer);
    absl::MutexLock lock(&mutex_);
    if (!ready && asked_ == absl::InfiniteFuture()) asked_ = absl::Now();
    return ready;
  }
  absl::Time ready_by() override { return real_->ready_by(); }

  absl::Span<const std::byte> Slices(size_t target, uint32_t first_layer,
                                     uint32_t layers) override {
    return real_->Slices(target, first_layer, layers);
  }
  bool LeaseHeld() override { return real_->LeaseHeld(); }
  void Cancel() override { real_->Cancel(); }

 private:
  // The first so many layers of a target have come. False: as was known; who computes a chunk after
  // all asks for its slices again.
  bool Take(size_t target, uint32_t layers, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (layers <= layers_taken_[target]) return false;
    bytes_ += slice_bytes_[target] * (layers - layers_taken_[target]);
    layers_taken_[target] = layers;
    last_ = now;
    return true;
  }

  MeteredCacheClient& client_;
  const std::vector<uint64_t> slice_bytes_;  // by target
  const absl::Time opened_ = absl::Now();
  std::unique_ptr<FetchStream> real_;
  absl::Mutex mutex_;
  absl::Time said_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();   // what the cache has
  absl::Time last_ ABSL_GUARDED_BY(mutex_);                            // slice taken
  absl::Duration waited_ ABSL_GUARDED_BY(mutex_);                      // for slices
  absl::Time asked_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // in vain, first
  std::vector<uint32_t> layers_taken_ ABSL_GUARDED_BY(mutex_);         // by target
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;                         // taken
};

std::unique_ptr<FetchStream> MeteredCacheClient::Fetch(std::vector<FetchTarget> targets,
                                                       const FetchOptions& options) {
  std::vector<uint64_t> slice_bytes;
  for (const FetchTarget& target : targets) slice_bytes.push_back(target.slice_bytes);
  auto stream = std::make_unique<Stream>(this, std::move(slice_bytes));
  stream->Start(real_.Fetch(std::move(targets), options));
  return stream;
}

}  // namespace tessera
