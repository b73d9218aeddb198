// All tiers as one: the fastest first, and only the misses go down.
#ifndef TESSERA_CACHE_SERVER_STORE_CHUNK_STORE_H_
#define TESSERA_CACHE_SERVER_STORE_CHUNK_STORE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "cache_server/store/admission_policy.h"
#include "cache_server/store/key_events.h"
#include "cache_server/store/loader.h"
#include "cache_server/store/pin_table.h"
#include "cache_server/store/promotion_policy.h"
#include "cache_server/store/write_behind.h"
#include "cache_server/tier/tier.h"

namespace tessera {

struct ChunkStoreOptions {
  WriteBehindOptions write_behind;
  LoaderOptions loader;
  PinOptions pins;
  AdmissionKind admission = AdmissionKind::kSecondSighting;
  PromotionKind promotion = PromotionKind::kAlways;
};

// Of keys that readers asked for.
struct LookupCounters {
  std::string tier;  // the fastest that had them; empty: none had
  uint64_t pieces = 0;
  uint64_t bytes = 0;
};

struct StoreCounters {
  std::vector<LookupCounters> lookups;  // fastest tier first, none last
  uint64_t tier_errors = 0;             // a tier failed otherwise than by a miss; taken as a miss
  LoaderCounters loads;
  WriteBehindCounters writes;
};

// Where a piece was found: its shape, and the name of the fastest tier that has it.
struct FoundPlace {
  PieceShape shape;
  std::string tier;
  size_t tier_index = 0;  // 0: in memory, so that GetFast finds it
};

// Thread-safe.
//
// The first tier is memory: all bytes that are served lie there. A piece that is found further down
// is loaded into it first, by a loader thread, once for all who want it; if there is no room it is
// a miss. Whether it stays there is the promotion policy's choice. What is committed goes down when
// the admission policy says so, through a bounded queue: never in the way of a request.
class ChunkStore {
 public:
  // At least one tier, fastest first. `events` gets what is added; evictions come from the tiers'
  // listeners. It may be null, else must outlive the store.
  explicit ChunkStore(std::vector<std::unique_ptr<Tier>> tiers, ChunkStoreOptions options = {},
                      KeyEvents* events = nullptr);

  // Stops loading and writing down; what is queued is dropped (see Flush).
  ~ChunkStore();

  // Those of `keys` that no tier has, in the order given.
  std::vector<ChunkKey> FindMissing(absl::Span<const ChunkKey> keys);

  // Where a key is; nothing for a miss. Never waits.
  std::optional<FoundPlace> Find(const ChunkKey& key);

  // Pins a piece of the first tier. Never waits. Errors: NOT_FOUND, also when it lies further down.
  absl::StatusOr<FoundPiece> GetFast(const ChunkKey& key);

  // Loads a piece that lies further down, and calls `done` with it: on a loader thread, or at once
  // on this one when nothing is to load. Errors: NOT_FOUND (a miss, a damaged piece, or no room),
  // RESOURCE_EXHAUSTED (too many loads wait; a miss for the caller).
  void Load(const ChunkKey& key, LoadCallback done);

  // GetFast, then Load and a wait for it.
  absl::StatusOr<FoundPiece> Get(const ChunkKey& key);

  // Room in the first tier; errors as Tier::Allocate. ALREADY_EXISTS also when a lower tier has the
  // key.
  absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape, const Tenant& tenant);

  // Makes the piece visible, and queues it for the lower tiers if it is admitted. Errors as
  // Tier::Commit.
  absl::Status Commit(WriteHandle handle);

  // Erases from every tier, and unpins. Loads and writes of the key that are under way do not bring
  // it back. True: some tier had it.
  bool Erase(const ChunkKey& key);

  // Pins, loading first where needed. Waits for that. Errors: NOT_FOUND, RESOURCE_EXHAUSTED.
  absl::Status Pin(const ChunkKey& key, absl::Duration ttl);
  bool Unpin(const ChunkKey& key) { return pins_.Unpin(key); }

  // Writes the keys down whatever admission says, then waits until they, and all that was queued,
  // is durable. Returns those of `keys` that are not. Errors: FAILED_PRECONDITION without a lower
  // tier; what the tier's Flush says.
  absl::StatusOr<std::vector<ChunkKey>> Flush(absl::Span<const ChunkKey> keys);

  // Waits until all that is queued now has been written down or dropped.
  void WaitForWriteDowns();

  // For who serves readers: a key that one asked for was in this tier (tiers().size(): in none),
  // with so many bytes.
  void CountLookup(size_t tier, uint64_t bytes);

  const std::vector<std::unique_ptr<Tier>>& tiers() const { return tiers_; }
  const PinTable& pins() const { return pins_; }
  std::vector<TierStats> Stats() const;
  StoreCounters counters() const;

 private:
  // Get of one tier, where every failure is a miss.
  absl::StatusOr<FoundPiece> GetFrom(size_t tier, const ChunkKey& key);
  absl::StatusOr<FoundPiece> LoadFromBelow(const ChunkKey& key);
  // Copies a piece of a lower tier into the first one: as an entry, or for this reader only.
  absl::StatusOr<FoundPiece> Promote(const ChunkKey& key, const FoundPiece& found);
  bool IsBelow(const ChunkKey& key);
  void EraseFrom(size_t tier, const ChunkKey& key);
  // The piece was stored or read; `pinned` admits it by itself.
  void WriteDownIfAdmitted(const ChunkKey& key, const ReadHandle& handle, bool pinned);

  struct Lookups {
    std::atomic<uint64_t> pieces{0};
    std::atomic<uint64_t> bytes{0};
  };

  const std::vector<std::unique_ptr<Tier>> tiers_;
  std::vector<std::string> names_;
  KeyEvents* const events_;
  const std::unique_ptr<AdmissionPolicy> admission_;
  const std::unique_ptr<PromotionPolicy> promotion_;
  std::vector<Lookups> lookups_;  // by tier, and one for none
  std::atomic<uint64_t> tier_errors_{0};
  absl::Mutex erase_mutex_;  // see Erase
  PinTable pins_;
  WriteBehind write_behind_;
  Loader loader_;  // last: its threads use all of the above
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_STORE_CHUNK_STORE_H_
