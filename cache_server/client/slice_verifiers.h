// Threads that verify slices ahead of their readers.
#ifndef TESSERA_CACHE_SERVER_CLIENT_SLICE_VERIFIERS_H_
#define TESSERA_CACHE_SERVER_CLIENT_SLICE_VERIFIERS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

// Whose slices are verified: a fetch.
class VerifiedStream {
 public:
  virtual ~VerifiedStream() = default;
  // Verifies a few slices; on several threads at a time. Whether there may be more to do now.
  virtual bool VerifySome() = 0;
};

// A few threads for all fetches of a client, which take turns: a checksum takes about as long as
// reading the bytes, so that one thread alone would be slower than a device's link. Thread-safe.
class SliceVerifiers {
 public:
  // The threads begin with the first Wake.
  explicit SliceVerifiers(int threads = DefaultThreads()) : most_threads_(threads) {}
  ~SliceVerifiers();
  SliceVerifiers(const SliceVerifiers&) = delete;
  SliceVerifiers& operator=(const SliceVerifiers&) = delete;

  // Half of the cores, 8 at most: the others compute.
  static int DefaultThreads();

  // There may be something to do for this stream, until its VerifySome says no. Quick; may be
  // called from VerifySome.
  void Wake(VerifiedStream* stream);
  // When this returns nobody is in its VerifySome, nor will be. It must not be woken any more.
  void Remove(VerifiedStream* stream);

 private:
  struct Turn {
    int running = 0;
    uint64_t wakes = 0;
    bool queued = false;
    bool removed = false;
  };

  void Loop();
  void Enqueue(VerifiedStream* stream, Turn& turn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Dequeue(VerifiedStream* stream, Turn& turn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int most_threads_;
  absl::Mutex mutex_;
  absl::flat_hash_map<VerifiedStream*, Turn> turns_ ABSL_GUARDED_BY(mutex_);
  std::deque<VerifiedStream*> queue_ ABSL_GUARDED_BY(mutex_);  // who has something to do
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_SLICE_VERIFIERS_H_
