// Log lines of calls that look for chunk KV or move it: one each, of level info where the call says
// which request it is for, and of level debug otherwise.
#ifndef TESSERA_CACHE_SERVER_SERVICE_CALL_LOG_H_
#define TESSERA_CACHE_SERVER_SERVICE_CALL_LOG_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cache_server/service/fetch_pieces.h"

namespace tessera {

// Longer ids are cut.
inline constexpr size_t kMostRequestIdBytes = 128;

// Who called, and how long it took.
struct CallFacts {
  std::string_view request;    // id; empty: none was said
  std::string_view transport;  // "grpc" or "shm"
  absl::Duration took;
};

// Of one store: pieces, and bytes of those that are new.
struct StoreFacts {
  uint64_t stored = 0;
  uint64_t present = 0;
  uint64_t rejected = 0;
  uint64_t bytes = 0;
};

void LogLookup(const CallFacts& call, size_t keys, size_t missing);
// bytes: that were sent, or shown in shared memory.
void LogFetch(const CallFacts& call, const FetchPieces& pieces, uint64_t bytes,
              const absl::Status& status);
void LogStore(const CallFacts& call, const StoreFacts& facts, const absl::Status& status);

// The calls of a shared-memory session, whose stores are puts of single pieces: these are added up
// until another request is named, or the session ends. For one thread.
class ShmCallLog {
 public:
  ShmCallLog() = default;
  ~ShmCallLog() { EndStore(); }

  // What follows is for this request; empty: for none.
  void NameRequest(std::string id);
  void Looked(size_t keys, size_t missing, absl::Time start) const;
  void Fetched(const FetchPieces& pieces, uint64_t bytes, absl::Time start) const;
  // Adds a piece to what was put since the request was named. bytes: that are new; 0 for a piece
  // that is `present` already, or was rejected.
  void Put(uint64_t bytes, bool present, absl::Time start);

 private:
  CallFacts CallSince(absl::Time start) const;
  void EndStore();

  std::string request_;
  StoreFacts puts_;
  absl::Time first_put_ = absl::InfiniteFuture();  // until there was one
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_CALL_LOG_H_
