// Puts the messages of one Store stream together into pieces. No gRPC here.
#ifndef TESSERA_CACHE_SERVER_SERVICE_PIECE_WRITER_H_
#define TESSERA_CACHE_SERVER_SERVICE_PIECE_WRITER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/transfer/slice_wire.h"

namespace tessera {

// What a Store stream has brought about so far.
struct StoreCounts {
  uint32_t stored = 0;
  uint32_t already_present = 0;
  uint32_t rejected = 0;  // no room, or larger than the server accepts
  uint64_t stored_bytes = 0;
};

// Takes headers and slice parts in the order of the protocol, verifies every slice, and commits a
// piece when its last slice is there. A piece that is not finished when the writer goes leaves no
// trace. For one thread at a time. After an error, take no more.
class PieceWriter {
 public:
  // `store` must outlive the writer.
  PieceWriter(ChunkStore* store, uint64_t max_slice_bytes)
      : store_(store), max_slice_bytes_(max_slice_bytes) {}

  // The next piece. A piece that is here already or has no room is not an error: its slices are
  // passed over. INVALID_ARGUMENT: not 32 bytes of key, sizes of 0, a tenant of the wrong length, or
  // the piece before is not finished.
  absl::Status AddHeader(const std::string& key, PieceShape shape, const std::string& tenant);

  // The next part of the current piece.
  // INVALID_ARGUMENT: out of order, or too long; DATA_LOSS: the checksum does not match the slice.
  absl::Status AddPart(const ReceivedMessage& message);

  // Says that no more comes. INVALID_ARGUMENT: a piece is unfinished.
  absl::Status Finish();

  // Drops the unfinished piece, if there is one.
  void Drop() { room_.reset(); }

  const StoreCounts& counts() const { return counts_; }

 private:
  absl::Status CheckPart(const SlicePart& part) const;
  absl::Status FinishSlice(uint64_t checksum);
  absl::Status CommitPiece();

  ChunkStore* store_;
  uint64_t max_slice_bytes_;
  StoreCounts counts_;

  // The current piece: open from its header to its last byte.
  bool open_ = false;
  std::optional<WriteHandle> room_;  // none: its slices are passed over
  PieceShape shape_;
  uint32_t layer_ = 0;
  uint64_t offset_ = 0;
  uint64_t checksum_ = 0;  // that the current slice must have
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_PIECE_WRITER_H_
