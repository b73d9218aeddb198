#include "cache_server/service/piece_writer.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cache_server/chunk/checksum.h"

namespace tessera {

absl::Status PieceWriter::AddHeader(const std::string& key, PieceShape shape,
                                    const std::string& tenant) {
  if (open_) return absl::InvalidArgumentError("a header before the piece ahead of it is finished");
  ASSIGN_OR_RETURN(const ChunkKey chunk_key, ChunkKey::FromBytes(key));
  ASSIGN_OR_RETURN(const Tenant owner, Tenant::FromBytes(tenant));
  if (!IsValidShape(shape)) return absl::InvalidArgumentError("impossible sizes of a piece");
  open_ = true;
  shape_ = shape;
  layer_ = 0;
  offset_ = 0;
  if (shape.slice_bytes > max_slice_bytes_) {
    ++counts_.rejected;
    return absl::OkStatus();
  }
  absl::StatusOr<WriteHandle> room = store_->Allocate(chunk_key, shape, owner);
  if (room.ok()) {
    room_.emplace(*std::move(room));
  } else if (absl::IsAlreadyExists(room.status())) {
    ++counts_.already_present;
  } else {
    ++counts_.rejected;
  }
  return absl::OkStatus();
}

absl::Status PieceWriter::CheckPart(const SlicePart& part) const {
  if (!open_) return absl::InvalidArgumentError("a slice without a header");
  if (part.layer != layer_ || part.offset != offset_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a part of layer ", part.layer, " at ", part.offset, ", not of ", layer_, " at ", offset_));
  }
  if (part.payload_bytes == 0 || part.payload_bytes > shape_.slice_bytes - offset_) {
    return absl::InvalidArgumentError(
        absl::StrCat("a part of ", part.payload_bytes, " bytes at ", offset_));
  }
  if (offset_ > 0 && part.checksum != checksum_) {
    return absl::InvalidArgumentError("parts of a slice with different checksums");
  }
  return absl::OkStatus();
}

absl::Status PieceWriter::AddPart(const ReceivedMessage& message) {
  const SlicePart& part = message.part();
  RETURN_IF_ERROR(CheckPart(part));
  if (room_) message.CopyPayload(room_->slice(layer_).data() + offset_);
  checksum_ = part.checksum;
  offset_ += part.payload_bytes;
  if (offset_ < shape_.slice_bytes) return absl::OkStatus();
  RETURN_IF_ERROR(FinishSlice(part.checksum));
  offset_ = 0;
  ++layer_;
  return layer_ < shape_.layers ? absl::OkStatus() : CommitPiece();
}

absl::Status PieceWriter::FinishSlice(uint64_t checksum) {
  if (!room_) return absl::OkStatus();
  if (SliceChecksum(room_->slice(layer_)) != checksum) {
    const std::string key = room_->key().ToHex();
    room_.reset();
    return absl::DataLossError(absl::StrCat("wrong checksum: layer ", layer_, " of ", key));
  }
  room_->set_checksum(layer_, checksum);
  return absl::OkStatus();
}

absl::Status PieceWriter::CommitPiece() {
  open_ = false;
  if (!room_) return absl::OkStatus();
  const absl::Status status = store_->Commit(*std::exchange(room_, std::nullopt));
  if (status.ok()) {
    ++counts_.stored;
    counts_.stored_bytes += shape_.bytes();
  } else if (absl::IsAlreadyExists(status)) {
    ++counts_.already_present;
  } else {
    ++counts_.rejected;
  }
  return absl::OkStatus();
}

absl::Status PieceWriter::Finish() {
  if (!open_) return absl::OkStatus();
  Drop();
  return absl::InvalidArgumentError("the stream ends within a piece");
}

}  // namespace tessera
