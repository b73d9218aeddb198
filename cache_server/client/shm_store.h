// One store over shared memory.
#ifndef TESSERA_CACHE_SERVER_CLIENT_SHM_STORE_H_
#define TESSERA_CACHE_SERVER_CLIENT_SHM_STORE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/client/shm_connection.h"

namespace tessera {

// Puts pieces into the connection's staging memory, from where the server copies them. While the
// server copies one, the next is staged. For one thread.
class ShmStore {
 public:
  // The sources and their memory must outlive it.
  ShmStore(ShmConnection* connection, absl::Span<const StoreSource> sources, absl::Time deadline,
           std::string request_id)
      : connection_(*connection),
        sources_(sources),
        deadline_(deadline),
        request_id_(std::move(request_id)) {}

  // Asks which pieces are missing, and stores them. Errors: the connection is of no more use; what
  // was stored until then stays.
  absl::Status Run();

  // After Run: pieces that the server newly holds, their bytes, and the sources that have to go
  // another way: larger than the staging memory, or not settled before an error.
  size_t stored() const { return stored_; }
  uint64_t stored_bytes() const { return stored_bytes_; }
  const std::vector<StoreSource>& left() const { return left_; }
  // Pieces whose bytes the server saw damaged.
  size_t damaged() const { return damaged_; }

 private:
  absl::Status StoreWhatIsMissing();
  absl::StatusOr<std::vector<StoreSource>> FindMissing();
  absl::Status StoreAll(const std::vector<StoreSource>& missing);
  // Stages a piece and tells the server, collecting answers first when there is no room.
  absl::Status Put(const StoreSource& source);
  // Waits for the answers of all that was put.
  absl::Status Collect();
  absl::Status CollectOne();
  // The answer to a call. UNAVAILABLE: the server says that it failed.
  absl::StatusOr<absl::Span<const std::byte>> Answer(ShmType type, uint64_t call);

  ShmConnection& connection_;
  const absl::Span<const StoreSource> sources_;
  const absl::Time deadline_;
  const std::string request_id_;  // ShmConnection::NameRequest
  SharedMemory* staging_ = nullptr;
  uint64_t used_ = 0;  // of the staging memory
  struct Outstanding {
    uint64_t call = 0;
    StoreSource source;
  };
  std::vector<Outstanding> outstanding_;  // oldest first
  size_t answered_ = 0;                   // the first so many of them
  size_t stored_ = 0;
  size_t damaged_ = 0;
  uint64_t stored_bytes_ = 0;
  std::vector<StoreSource> left_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_SHM_STORE_H_
