// The pieces of one fetch: those in memory at once, the others as they are loaded. No gRPC here.
#ifndef TESSERA_CACHE_SERVER_SERVICE_FETCH_PIECES_H_
#define TESSERA_CACHE_SERVER_SERVICE_FETCH_PIECES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "cache_server/chunk/key.h"
#include "cache_server/store/chunk_store.h"

namespace tessera {

// Thread-safe. Pieces stay pinned until the last owner of this object is gone; loads that are under
// way own it too.
class FetchPieces : public std::enable_shared_from_this<FetchPieces> {
 public:
  enum class State {
    kMiss,
    kLoading,
    kReady,
    kLost,  // was found, and could not be loaded
  };

  // Pins what is in memory, and starts to load the rest. With `stop_at_first_miss` what comes after
  // a miss is a miss. `store` must outlive the loads.
  static std::shared_ptr<FetchPieces> Start(ChunkStore* store, absl::Span<const ChunkKey> keys,
                                            bool stop_at_first_miss);

  size_t size() const { return pieces_.size(); }
  State state(size_t piece) const;

  // How many are lost so far.
  size_t lost() const { return lost_.load(std::memory_order_acquire); }

  // What is known of a piece that is no miss, loaded or not.
  PieceShape shape(size_t piece) const { return pieces_[piece].shape; }
  const std::string& tier(size_t piece) const { return pieces_[piece].tier; }

  // The handle of a piece that is ready.
  const ReadHandle& handle(size_t piece) const;

  // True: the piece is loading, and `wake` is called once when that is over, on a loader's thread.
  // False: it is over already. One piece may be waited for at a time.
  bool WakeWhenLoaded(size_t piece, std::function<void()> wake);

 private:
  struct Piece {
    PieceShape shape;
    std::string tier;
    State state = State::kMiss;
    std::optional<ReadHandle> handle;
  };

  void Loaded(size_t piece, absl::StatusOr<FoundPiece> found);

  // Shape and tier are set before anybody else sees this object; state and handle under the mutex,
  // where a handle never changes once its state is kReady.
  std::vector<Piece> pieces_;
  std::atomic<size_t> lost_{0};
  mutable absl::Mutex mutex_;
  size_t waiting_for_ ABSL_GUARDED_BY(mutex_) = 0;
  std::function<void()> wake_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_FETCH_PIECES_H_
