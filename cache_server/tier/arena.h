// Which bytes of one large memory are taken: whole pages, in unbroken stretches.
#ifndef TESSERA_CACHE_SERVER_TIER_ARENA_H_
#define TESSERA_CACHE_SERVER_TIER_ARENA_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

// Stretches of [0, size), handed out to owners. Knows numbers only, no memory. The smallest free
// stretch that is large enough is taken, at the lowest address among equals, and a freed one joins
// its free neighbours at once: so nothing but taken stretches ever stands between free ones.
// Thread-safe; Allocate and Free take time logarithmic in the number of stretches.
class Arena {
 public:
  static constexpr uint64_t kUnit = 4096;

  // Who has a stretch: told apart by address, never looked into. Not null.
  using Owner = void*;
  using MayGo = absl::FunctionRef<bool(Owner)>;

  // `size` must be a multiple of kUnit.
  explicit Arena(uint64_t size);

  static uint64_t RoundUp(uint64_t bytes) { return (bytes + kUnit - 1) / kUnit * kUnit; }

  // The start of a stretch of RoundUp(bytes) bytes; nothing when no free stretch is large enough.
  // `bytes` > 0.
  std::optional<uint64_t> Allocate(uint64_t bytes, Owner owner);

  // Gives back what Allocate returned.
  void Free(uint64_t start);

  // The owners who must free their stretches so that `bytes` lie unbroken: the window with the
  // fewest taken bytes among those that lie within about `bytes` of `near`, and in which every
  // owner may go. Nothing when there is no such window. Empty: a free stretch is large enough.
  // `may_go` is asked under the arena's lock, and must not call the arena.
  std::optional<std::vector<Owner>> FindWindow(uint64_t bytes, uint64_t near, MayGo may_go) const;

  // The same over all of the arena, in time linear in the number of stretches.
  std::optional<std::vector<Owner>> FindWindowAnywhere(uint64_t bytes, MayGo may_go) const;

  uint64_t size() const { return size_; }
  uint64_t used() const;
  uint64_t largest_free() const;

 private:
  struct Stretch {
    uint64_t bytes;
    Owner owner;  // null: free
  };
  using Stretches = std::map<uint64_t, Stretch>;

  // The cheapest window in [first, last).
  static std::optional<std::vector<Owner>> CheapestWindow(Stretches::const_iterator first,
                                                          Stretches::const_iterator last,
                                                          uint64_t bytes, MayGo may_go);
  void AddFree(uint64_t start, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t size_;
  mutable absl::Mutex mutex_;
  // By start; they cover [0, size_) without gaps, and no two free ones are neighbours.
  Stretches stretches_ ABSL_GUARDED_BY(mutex_);
  // The free ones: (bytes, start).
  std::set<std::pair<uint64_t, uint64_t>> free_ ABSL_GUARDED_BY(mutex_);
  uint64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ARENA_H_
