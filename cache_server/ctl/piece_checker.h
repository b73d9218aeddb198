// Checks the bytes of pieces as they come.
#ifndef TESSERA_CACHE_SERVER_CTL_PIECE_CHECKER_H_
#define TESSERA_CACHE_SERVER_CTL_PIECE_CHECKER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/kv_cache.pb.h"

namespace tessera::ctl {

enum class Verdict {
  kGood,        // every slice came, with the checksum of its writer
  kDamaged,     // what came is not what was stored
  kUnreadable,  // the server has it, but not all of it came
  kMissing,     // the server does not have it
};
const char* VerdictName(Verdict verdict);

// For the messages of one Fetch. Holds one slice at a time.
class PieceChecker {
 public:
  explicit PieceChecker(size_t keys) : pieces_(keys) {}

  // INVALID_ARGUMENT: no message of this Fetch; the rest of the stream is of no use.
  absl::Status Take(const cache::v1::FetchResponse& message);

  // After the stream's end.
  Verdict verdict(size_t key) const;
  // In words; empty for a good one.
  std::string Reason(size_t key) const;
  // Of good slices.
  uint64_t checked_bytes() const { return checked_bytes_; }

 private:
  struct Piece {
    bool found = false;
    bool taken_back = false;
    uint32_t layers = 0;
    uint64_t slice_bytes = 0;
    uint32_t good_layers = 0;
    std::string damage;
  };

  absl::Status TakeHeader(const cache::v1::FetchHeader& header);
  absl::Status TakeSlice(const cache::v1::Slice& part);
  void CheckSlice(Piece& piece, uint64_t checksum);

  std::vector<Piece> pieces_;
  // The slice that is coming: its piece, and what of it is here.
  size_t current_ = 0;
  std::string slice_;
  uint64_t checked_bytes_ = 0;
};

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_PIECE_CHECKER_H_
