// One fetch over shared memory.
#ifndef TESSERA_CACHE_SERVER_CLIENT_SHM_FETCH_H_
#define TESSERA_CACHE_SERVER_CLIENT_SHM_FETCH_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/client/call_outcome.h"
#include "cache_server/client/shm_connection.h"
#include "cache_server/client/shm_link.h"
#include "cache_server/client/slice_verifiers.h"
#include "cache_server/transfer/lease_table.h"

namespace tessera {

struct ShmFetchOptions {
  absl::Time deadline;
  absl::Time use_deadline;  // until then slices that are there may be taken
  // When the server must have answered.
  absl::Time acquire_deadline;
  bool stop_at_first_miss = false;
  std::string request_id;  // ShmConnection::NameRequest
  // Begins the same fetch over gRPC; called once at most.
  std::function<std::unique_ptr<FetchStream>()> fall_back;
  std::function<void()> on_progress;  // FetchOptions'; may be empty
};

// The server's word on all targets is one answer; after it nothing travels but the news of pieces
// that it still loads. Whoever waits or asks reads the socket, and so do the link's verifiers; that
// something can be read is seen by the link's thread, if somebody wants to be told.
//
// The verifiers copy and verify slices ahead of the reader, layer by layer. One who waits for a
// slice helps them; one who only asks does not.
//
// As long as no slice was handed out, what fails here is fetched over gRPC instead, all of it:
// then this object only passes calls on.
class ShmFetchStream : public FetchStream, private VerifiedStream {
 public:
  // `link` and `outcomes` as the client's; `connection` goes back to the link in the end.
  ShmFetchStream(ShmLink* link, std::shared_ptr<CallOutcomes> outcomes,
                 std::unique_ptr<ShmConnection> connection, std::vector<FetchTarget> targets,
                 ShmFetchOptions options);
  ~ShmFetchStream() override;

  // Asks the server; or falls back.
  void Start();

  std::vector<std::string> WaitForHeader() override;
  bool WaitForSlice(size_t target, uint32_t layer) override;
  bool HeaderReady() override;
  bool SliceReady(size_t target, uint32_t layer) override;
  absl::Time ready_by() override;
  uint32_t ReadyLayers(size_t target) override;
  absl::Span<const std::byte> Slices(size_t target, uint32_t first_layer, uint32_t layers) override;
  bool LeaseHeld() override;
  void Cancel() override;

 private:
  struct Piece {
    ShmPlace place;
    ShmState state = ShmState::kMiss;
    uint32_t ready_layers = 0;
    bool busy = false;    // some thread verifies a slice of it
    bool failed = false;  // no more slices come
  };
  enum class Check { kRight, kWrong, kLost };

  // Whether nobody may wait for the server any more.
  bool Over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return cancelled_ || broken_ || fallback_ != nullptr;
  }
  // Reads what the server sends until done() or Over(), or it is too late; only what is there, if
  // it may not wait.
  enum class Patience { kNone, kUntilDeadline };
  void ReadUntil(absl::FunctionRef<bool()> done, Patience patience)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReadHeader(Patience patience) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether a slice has come; nothing while that is not known, which only the impatient see.
  std::optional<bool> Verdict(size_t target, uint32_t layer, Patience patience);
  void Tell() const {
    if (options_.on_progress) options_.on_progress();
  }

  absl::Status Take(absl::Span<const std::byte> packet) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TakeAcquired(absl::Span<const std::byte> packet)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TakeLoaded(absl::Span<const std::byte> packet) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SetPlace(size_t target, const ShmPlace& place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Break(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LoseLease() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Starts over with gRPC, if nothing of this fetch is in anybody's hands.
  void TryFallBack() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AwaitFallBack() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  bool VerifySome() override;
  bool MayVerify() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether slices of a piece that is here are left to verify.
  bool IsUnverified(size_t target) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first so many layers of all such pieces are verified; without any, more than there are.
  uint32_t VerifiedLayers() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Slices of the lowest layer that nobody verifies yet, a few.
  std::vector<size_t> Claim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the verifiers will come to this slice.
  bool IsToBeVerified(size_t target, uint32_t layer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes slices ready up to `layer`; false when that one does not come.
  bool MakeReady(size_t target, uint32_t layer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Copies (if the target has memory) and verifies one slice.
  Check CheckSlice(size_t target, uint32_t layer, const ShmPlace& place, const Lease& lease) const;
  void Settle(size_t target, Check check) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const std::byte* SharedSlice(const ShmPlace& place, uint32_t layer) const;

  ShmLink* const link_;
  const std::shared_ptr<CallOutcomes> outcomes_;
  const std::shared_ptr<const ShmMapping> mapping_;
  const std::vector<FetchTarget> targets_;
  const ShmFetchOptions options_;
  const uint64_t call_;

  absl::Mutex mutex_;
  // The pointer never changes before the end; what may be done with it see its header.
  std::unique_ptr<ShmConnection> connection_;
  Lease lease_ ABSL_GUARDED_BY(mutex_);
  std::vector<Piece> pieces_ ABSL_GUARDED_BY(mutex_);
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;   // nothing more comes over the connection
  bool refused_ ABSL_GUARDED_BY(mutex_) = false;  // broken, but the connection is whole
  bool lease_lost_ ABSL_GUARDED_BY(mutex_) = false;
  bool falling_back_ ABSL_GUARDED_BY(mutex_) = false;  // nothing is known until it is false again
  bool handed_out_ ABSL_GUARDED_BY(mutex_) = false;    // somebody was told of a slice
  bool shows_shared_ ABSL_GUARDED_BY(mutex_) = false;  // and it lies in the shared memory
  size_t checking_ ABSL_GUARDED_BY(mutex_) = 0;        // threads in CheckSlice
  std::unique_ptr<FetchStream> fallback_ ABSL_GUARDED_BY(mutex_);  // set once
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_SHM_FETCH_H_
