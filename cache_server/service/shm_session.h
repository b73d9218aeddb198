// One client's connection to the shared-memory service.
#ifndef TESSERA_CACHE_SERVER_SERVICE_SHM_SESSION_H_
#define TESSERA_CACHE_SERVER_SERVICE_SHM_SESSION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/service/call_log.h"
#include "cache_server/service/fetch_pieces.h"
#include "cache_server/service/shm_server.h"
#include "cache_server/service/waker.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/transfer/lease_table.h"
#include "cache_server/transfer/shm_wire.h"
#include "cache_server/transfer/unix_socket.h"

namespace tessera {

// What all sessions of a server share. The pointers outlive the sessions.
struct ShmContext {
  ShmServerOptions options;
  std::shared_ptr<SharedMemory> memory;
  ChunkStore* store = nullptr;
  std::unique_ptr<LeaseTable> leases;
  std::atomic<bool> draining{false};
  std::atomic<uint64_t> sessions{0};
  std::atomic<uint64_t> expired_leases{0};
  std::atomic<uint64_t> served_bytes{0};
  std::atomic<uint64_t> put_bytes{0};
  std::atomic<uint64_t> found_pieces{0};
  std::atomic<uint64_t> missing_pieces{0};
  std::atomic<uint64_t> checksum_failures{0};
  std::atomic<uint64_t> refused{0};
};

// Serves one connection on a thread of its own, until the client leaves, sends what no client may
// send, or does not read its answers. All leases of the session end with it.
class ShmSession {
 public:
  // `on_end` is called by the session's thread when it has nothing more to do.
  ShmSession(OwnedFd socket, std::shared_ptr<Waker> waker, ShmContext* context,
             std::function<void()> on_end);
  // Ends the session, and waits for its thread.
  ~ShmSession();

  // Begins to end it.
  void Stop();
  bool ended() const { return ended_.load(); }

 private:
  struct HeldLease {
    Lease lease;
    std::shared_ptr<FetchPieces> pieces;
    absl::Time end;
    size_t next = 0;  // of `loading`: the first whose outcome the client has not been told
    std::vector<uint32_t> loading;
  };
  // By id. A session of our client has one, and never needs many.
  using HeldLeases = std::map<uint64_t, HeldLease>;

  void Run();
  absl::Status Greet();
  absl::Status Serve();
  // Waits for a packet, for loaded pieces, or for the end of a lease. True: there is a packet.
  bool WaitForPacket();

  absl::Status TakePacket();
  absl::Status Handle(ShmType type, uint64_t call, absl::Span<const std::byte> packet);
  absl::Status Acquire(uint64_t call, absl::Span<const std::byte> packet);
  absl::Status Find(uint64_t call, absl::Span<const std::byte> packet);
  absl::Status Erase(absl::Span<const std::byte> packet);
  absl::Status SetStaging(std::vector<OwnedFd> fds);
  absl::Status Put(uint64_t call, absl::Span<const std::byte> packet);
  absl::StatusOr<ShmPutResult> StorePiece(const ShmPut& put);
  // Copies staged bytes. INVALID_ARGUMENT: they are not there.
  absl::Status ReadStaged(uint64_t at, absl::Span<std::byte> target) const;

  // Where a piece lies; kMiss for one that does not lie in the shared memory.
  ShmPlace PlaceOf(const ReadHandle& handle, const std::string& tier) const;
  ShmPlace PlaceOf(const FetchPieces& pieces, size_t piece) const;
  void SendLoaded();
  // False: the client has no room for it now.
  absl::StatusOr<bool> SendLoaded(HeldLease* held);
  void Renew(uint64_t id);
  void End(HeldLeases::iterator held);
  void EndExpired();
  absl::Status Send(const ShmPacket& packet, absl::Span<const int> fds = {});
  absl::Status SendFailed(uint64_t call, const char* why);

  ShmContext* const context_;
  const OwnedFd socket_;
  const std::shared_ptr<Waker> waker_;
  const std::function<void()> on_end_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};

  // Only touched by the thread.
  ShmPacket buffer_;
  HeldLeases leases_;
  bool blocked_ = false;  // the client had no room for a kLoaded
  absl::Status failure_;  // of a send outside Handle
  ShmCallLog calls_;
  OwnedFd staging_;
  uint64_t staging_bytes_ = 0;

  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_SHM_SESSION_H_
