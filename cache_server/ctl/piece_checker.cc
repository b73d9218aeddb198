#include "cache_server/ctl/piece_checker.h"

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "cache_server/chunk/checksum.h"

namespace tessera::ctl {
namespace {

// No server accepts as much; whoever says so must not make this program take the memory.
constexpr uint64_t kMostSliceBytes = uint64_t{1} << 30;

}  // namespace

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kGood:
      return "good";
    case Verdict::kDamaged:
      return "damaged";
    case Verdict::kUnreadable:
      return "unreadable";
    case Verdict::kMissing:
      return "missing";
  }
  return "unknown";
}

absl::Status PieceChecker::Take(const cache::v1::FetchResponse& message) {
  switch (message.part_case()) {
    case cache::v1::FetchResponse::kHeader:
      return TakeHeader(message.header());
    case cache::v1::FetchResponse::kSlice:
      return TakeSlice(message.slice());
    default:
      return absl::OkStatus();  // what a later version of the protocol may add
  }
}

absl::Status PieceChecker::TakeHeader(const cache::v1::FetchHeader& header) {
  if (static_cast<size_t>(header.keys_size()) != pieces_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the server answered for ", header.keys_size(),
                                                   " keys, not ", pieces_.size()));
  }
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const cache::v1::KeyStatus& status = header.keys(static_cast<int>(i));
    Piece& piece = pieces_[i];
    piece.taken_back = piece.taken_back || (piece.found && !status.found());
    if (!status.found() || piece.found) continue;
    piece.found = true;
    piece.layers = status.layers();
    piece.slice_bytes = status.slice_bytes();
    if (piece.slice_bytes == 0 || piece.slice_bytes > kMostSliceBytes || piece.layers == 0) {
      piece.damage = absl::StrCat("it is said to have ", piece.layers, " layers of ",
                                  piece.slice_bytes, " bytes");
    }
  }
  return absl::OkStatus();
}

absl::Status PieceChecker::TakeSlice(const cache::v1::Slice& part) {
  if (part.key_index() >= pieces_.size() || !pieces_[part.key_index()].found) {
    return absl::InvalidArgumentError("the server sent a slice that it did not announce");
  }
  Piece& piece = pieces_[part.key_index()];
  if (part.offset() == 0) {
    // What was begun and not finished stays unfinished: its piece does not count as good.
    current_ = part.key_index();
    slice_.clear();
  }
  if (!piece.damage.empty() || piece.taken_back) return absl::OkStatus();
  if (current_ != part.key_index() || part.layer() != piece.good_layers ||
      part.offset() != slice_.size() || part.payload().empty() ||
      part.payload().size() > piece.slice_bytes - slice_.size()) {
    piece.damage = absl::StrCat("a part of layer ", part.layer(), " came out of order");
    return absl::OkStatus();
  }
  slice_ += part.payload();
  if (slice_.size() == piece.slice_bytes) CheckSlice(piece, part.checksum());
  return absl::OkStatus();
}

void PieceChecker::CheckSlice(Piece& piece, uint64_t checksum) {
  const auto* bytes = reinterpret_cast<const std::byte*>(slice_.data());
  if (SliceChecksum(absl::MakeConstSpan(bytes, slice_.size())) == checksum) {
    ++piece.good_layers;
    checked_bytes_ += slice_.size();
  } else {
    piece.damage = absl::StrCat("wrong checksum in layer ", piece.good_layers);
  }
  slice_.clear();
}

Verdict PieceChecker::verdict(size_t key) const {
  const Piece& piece = pieces_[key];
  if (!piece.found) return Verdict::kMissing;
  if (!piece.damage.empty()) return Verdict::kDamaged;
  if (piece.taken_back || piece.good_layers < piece.layers) return Verdict::kUnreadable;
  return Verdict::kGood;
}

std::string PieceChecker::Reason(size_t key) const {
  const Piece& piece = pieces_[key];
  switch (verdict(key)) {
    case Verdict::kGood:
      return "";
    case Verdict::kDamaged:
      return piece.damage;
    case Verdict::kMissing:
      return "not in the cache";
    case Verdict::kUnreadable:
      break;
  }
  if (piece.taken_back) return "the server could not load it, or had it no longer";
  return absl::StrCat("only ", piece.good_layers, " of ", piece.layers, " layers came");
}

}  // namespace tessera::ctl
