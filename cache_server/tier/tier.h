// A tier: one place where pieces are kept (RAM, a disk, another machine).
//
// A tier maps a ChunkKey to a piece: `layers` slices of `slice_bytes` each, and the checksum that
// the writer made for each slice. Pieces are immutable: a key is written once, and read as often as
// wanted until the tier evicts it. A tier is a cache: it may evict any piece that nobody holds, at
// any time.
//
// Writing: Allocate, fill bytes and checksums, Commit. Until Commit nobody sees the piece; a
// WriteHandle that is dropped instead leaves no trace. Reading: Get; the ReadHandle pins the bytes:
// they stay where they are, and stay the same, until the last handle on them is dropped, whatever
// happens to the entry (eviction, Erase, even the end of the tier itself). Pinned bytes count as
// used.
//
// Statuses that have a meaning here; anything else is a broken tier, to be taken as a miss:
//   NOT_FOUND           a miss
//   ALREADY_EXISTS      the key is committed; its entry stays as it is
//   DATA_LOSS           the piece was damaged where it lay; the tier has erased it
//   RESOURCE_EXHAUSTED  no room, even after evicting all that may be evicted; or the tier takes no
//                       writes now (a disk that is full, or fails)
//   INVALID_ARGUMENT    a shape with no bytes, or with more than a tier can ever hold
#ifndef TESSERA_CACHE_SERVER_TIER_TIER_H_
#define TESSERA_CACHE_SERVER_TIER_TIER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/chunk/key.h"

namespace tessera {

// The sizes of a piece.
struct PieceShape {
  uint32_t layers = 0;
  uint64_t slice_bytes = 0;

  // All slices. The caller has checked that it does not overflow (see IsValidShape).
  uint64_t bytes() const { return layers * slice_bytes; }
  friend bool operator==(const PieceShape&, const PieceShape&) = default;
};

// Whether there is at least one byte, and no more than 2^40.
inline bool IsValidShape(PieceShape shape) {
  constexpr uint64_t kMostBytes = uint64_t{1} << 40;
  return shape.layers > 0 && shape.slice_bytes > 0 &&
         shape.slice_bytes <= kMostBytes / shape.layers;
}

// Pins the bytes of one committed piece. Move-only; many handles may pin the same piece. Reading
// through a handle takes no lock, and a handle may be dropped on any thread.
class ReadHandle {
 public:
  // For tiers. `bytes` (all slices, one after the other) and `checksums` (one per layer) live as
  // long as `pin` does.
  ReadHandle(PieceShape shape, const std::byte* bytes, const uint64_t* checksums,
             std::shared_ptr<const void> pin, const Tenant& tenant)
      : shape_(shape),
        bytes_(bytes),
        checksums_(checksums),
        pin_(std::move(pin)),
        tenant_(tenant) {}

  // For tiers whose slices do not lie one after the other: `slices` has the start of each.
  ReadHandle(PieceShape shape, const std::byte* const* slices, const uint64_t* checksums,
             std::shared_ptr<const void> pin, const Tenant& tenant)
      : shape_(shape),
        slices_(slices),
        checksums_(checksums),
        pin_(std::move(pin)),
        tenant_(tenant) {}

  ReadHandle(ReadHandle&&) = default;
  ReadHandle& operator=(ReadHandle&&) = default;

  // A second handle on the same piece. Cheap: no bytes are copied.
  ReadHandle Share() const {
    if (slices_ != nullptr) return ReadHandle(shape_, slices_, checksums_, pin_, tenant_);
    return ReadHandle(shape_, bytes_, checksums_, pin_, tenant_);
  }

  PieceShape shape() const { return shape_; }
  uint32_t layers() const { return shape_.layers; }
  uint64_t slice_bytes() const { return shape_.slice_bytes; }
  // Whose it is.
  const Tenant& tenant() const { return tenant_; }

  absl::Span<const std::byte> slice(uint32_t layer) const {
    if (slices_ != nullptr) return {slices_[layer], shape_.slice_bytes};
    return {bytes_ + layer * shape_.slice_bytes, shape_.slice_bytes};
  }
  // XXH3-64 of the slice, as the writer gave it. A tier does not vouch for it; the last user
  // verifies.
  uint64_t checksum(uint32_t layer) const { return checksums_[layer]; }
  // All of them, one after the other: where they lie, for those who show them to other processes.
  const uint64_t* checksums() const { return checksums_; }

  // What keeps the bytes alive, for those who pass bytes on without the handle (gRPC's slices).
  const std::shared_ptr<const void>& pin() const { return pin_; }

 private:
  PieceShape shape_;
  const std::byte* bytes_ = nullptr;           // one of the two
  const std::byte* const* slices_ = nullptr;
  const uint64_t* checksums_;
  std::shared_ptr<const void> pin_;
  Tenant tenant_;
};

// Room for one piece that nobody sees yet. Move-only, for one thread at a time. Dropped without
// Commit, the room is free again.
class WriteHandle {
 public:
  // For tiers. `tier` is the one that Commit must be called on; `room` frees the memory when
  // dropped.
  WriteHandle(const void* tier, const ChunkKey& key, PieceShape shape, std::byte* bytes,
              uint64_t* checksums, std::shared_ptr<void> room, const Tenant& tenant)
      : tier_(tier),
        key_(key),
        shape_(shape),
        bytes_(bytes),
        checksums_(checksums),
        room_(std::move(room)),
        tenant_(tenant) {}

  WriteHandle(WriteHandle&&) = default;
  WriteHandle& operator=(WriteHandle&&) = default;

  const ChunkKey& key() const { return key_; }
  PieceShape shape() const { return shape_; }
  const Tenant& tenant() const { return tenant_; }

  // The memory of a slice, to be filled before Commit.
  absl::Span<std::byte> slice(uint32_t layer) {
    return {bytes_ + layer * shape_.slice_bytes, shape_.slice_bytes};
  }
  // To be set for every layer before Commit.
  void set_checksum(uint32_t layer, uint64_t checksum) { checksums_[layer] = checksum; }

  // Instead of Commit: a handle to read what was filled in, that nobody else ever finds. The room
  // is free again when the last such handle is dropped.
  ReadHandle KeepPrivate() && {
    return ReadHandle(shape_, bytes_, checksums_, std::move(room_), tenant_);
  }

  // For tiers: whose it is, and the room itself.
  const void* tier() const { return tier_; }
  const std::shared_ptr<void>& room() const { return room_; }

 private:
  const void* tier_;
  ChunkKey key_;
  PieceShape shape_;
  std::byte* bytes_;
  uint64_t* checksums_;
  std::shared_ptr<void> room_;
  Tenant tenant_;
};

// Why an entry left a tier.
enum class EvictionReason : uint8_t {
  kRoom,         // the tier needed its bytes
  kNeighbours,   // its bytes lay where one piece needed an unbroken stretch
  kTenantQuota,  // its tenant had more than it may
  kDamaged,      // its bytes were not what was written
  kErased,       // somebody asked for it
};
inline constexpr size_t kEvictionReasons = 5;
// "room", "neighbours", "tenant_quota", "damaged", "erased".
const char* EvictionReasonName(EvictionReason reason);

// Told of every entry that leaves a tier. Called on any thread, possibly under the tier's lock: must
// be quick, and must not call the tier.
using EvictionListener = std::function<void(const ChunkKey&, EvictionReason)>;

// One entry, as List shows it.
struct TierEntry {
  ChunkKey key;
  PieceShape shape;
  Tenant tenant;
  absl::Time added;  // to this tier
  absl::Time used;   // last Get, or `added`
};

// Counts since the tier was made, and sizes now.
struct TierStats {
  std::string name;             // "ram", "rocksdb", ...
  uint64_t capacity_bytes = 0;  // the limit
  uint64_t used_bytes = 0;  // entries, unfinished writes, and erased entries that are still pinned
  uint64_t entries = 0;     // keys that Get would find
  std::array<uint64_t, kEvictionReasons> evictions = {};  // entries that left, by EvictionReason
  // Of a tier with a medium; empty for others. Name and value, such as {"stall_stopped", 1}: what
  // its medium says of itself, for metrics.
  std::vector<std::pair<std::string, double>> medium;
  // Filled in by MeteredTier only.
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t read_bytes = 0;     // of the pieces that were hit
  uint64_t written_bytes = 0;  // of the pieces that were committed
  uint64_t refused = 0;        // Allocate without room
};

// Thread-safe. Handles may outlive the tier.
class Tier {
 public:
  virtual ~Tier() = default;

  // The shape of a piece that Get would find now; nothing for a miss. Never waits for a medium. No
  // use of an entry: does not keep it from eviction.
  virtual std::optional<PieceShape> Find(const ChunkKey& key) = 0;

  // Pins the piece, and tells the eviction policy of the use. May wait for a medium.
  // Errors: NOT_FOUND, DATA_LOSS.
  virtual absl::StatusOr<ReadHandle> Get(const ChunkKey& key) = 0;

  // Makes room for a piece, evicting others if it must. Two writers may hold room for the same key;
  // the first to commit wins. Errors: ALREADY_EXISTS, RESOURCE_EXHAUSTED, INVALID_ARGUMENT.
  virtual absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape,
                                               const Tenant& tenant) = 0;

  // Makes the piece visible, and pins it for the caller. The handle must come from this tier.
  // Errors: ALREADY_EXISTS (the room is freed), RESOURCE_EXHAUSTED (the medium did not take it).
  virtual absl::StatusOr<ReadHandle> Commit(WriteHandle handle) = 0;

  // Makes the key a miss. Absent keys are no error.
  virtual absl::Status Erase(const ChunkKey& key) = 0;

  // Returns when all that was committed before will be there after a crash of this process; at once
  // for a tier that keeps nothing. Errors: the medium's.
  virtual absl::Status Flush() { return absl::OkStatus(); }

  // All entries, in no order. A copy, made under the tier's lock: for people, not for every request.
  virtual std::vector<TierEntry> List() const = 0;

  virtual TierStats Stats() const = 0;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_TIER_H_
