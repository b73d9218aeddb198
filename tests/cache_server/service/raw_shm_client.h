// A client of the shared-memory service that says what a test wants it to say.
#ifndef TESSERA_TESTS_CACHE_SERVER_SERVICE_RAW_SHM_CLIENT_H_
#define TESSERA_TESTS_CACHE_SERVER_SERVICE_RAW_SHM_CLIENT_H_

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "cache_server/chunk/checksum.h"
#include "cache_server/chunk/shared_memory.h"
#include "cache_server/transfer/lease_table.h"
#include "cache_server/transfer/shm_wire.h"
#include "cache_server/transfer/unix_socket.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {

// Waits up to 20 s for each answer.
class RawShmClient {
 public:
  explicit RawShmClient(const std::string& path, const std::string& token = "") {
    auto socket = ConnectToPath(path);
    EXPECT_TRUE(socket.ok()) << socket.status();
    if (!socket.ok()) return;
    socket_ = *std::move(socket);
    Send(MakeShmText(ShmType::kHello, kShmVersion, token));
    auto packet =
        ReceivePacket(socket_.get(), absl::MakeSpan(buffer_), absl::Now() + absl::Seconds(20));
    if (!packet.ok() || packet->fds.size() != 2) return;
    welcome_ = *ReadShmFixed<ShmWelcome>(absl::MakeConstSpan(buffer_).first(packet->bytes));
    memory_ = *SharedMemory::Attach(packet->fds[0].Release());
    table_ = *SharedMemory::Attach(packet->fds[1].Release());
  }

  bool welcome() const { return memory_ != nullptr; }
  const ShmWelcome& facts() const { return welcome_; }
  const SharedMemory& memory() const { return *memory_; }
  bool Holds(const ShmLease& lease) const {
    return IsLeaseHeld(*table_, {.id = lease.id, .slot = lease.slot});
  }
  int fd() const { return socket_.get(); }
  void Close() { socket_.Reset(); }

  void Send(const ShmPacket& packet, const std::vector<int>& fds = {}) {
    EXPECT_TRUE(SendPacket(socket_.get(), packet, fds, absl::Now() + absl::Seconds(20)).ok());
  }
  // The next packet; empty when the server has ended the session.
  ShmPacket Receive() {
    const auto packet =
        ReceivePacket(socket_.get(), absl::MakeSpan(buffer_), absl::Now() + absl::Seconds(20));
    if (!packet.ok()) {
      EXPECT_EQ(packet.status().code(), absl::StatusCode::kUnavailable);
      return {};
    }
    return ShmPacket(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(packet->bytes));
  }
  static ShmType TypeOf(const ShmPacket& packet) {
    return packet.empty() ? ShmType{} : static_cast<ShmType>(ReadShmHead(packet)->type);
  }

  void AskFor(const std::vector<uint32_t>& numbers, uint64_t call, bool stop = false) {
    std::vector<ChunkKey> keys;
    for (const uint32_t number : numbers) keys.push_back(TestKey(number));
    Send(MakeShmPacket(ShmType::kAcquire, call, ShmAcquire{.stop_at_first_miss = stop},
                       absl::MakeConstSpan(keys)));
  }
  // Places of these pieces, and the lease.
  std::vector<ShmPlace> Acquire(const std::vector<uint32_t>& numbers, ShmLease* lease,
                                bool stop = false) {
    AskFor(numbers, 5, stop);
    const ShmPacket answer = Receive();
    EXPECT_EQ(TypeOf(answer), ShmType::kAcquired);
    if (TypeOf(answer) != ShmType::kAcquired) return {};
    EXPECT_EQ(ReadShmHead(answer)->call, 5u);
    *lease = *ReadShmFixed<ShmLease, ShmPlace>(answer, kMostShmKeys);
    return *ReadShmRecords<ShmPlace, ShmLease>(answer, kMostShmKeys);
  }
  // Whether the place holds this test piece, checksums included.
  bool Shows(const ShmPlace& place, uint32_t number) const {
    if (place.state != static_cast<uint32_t>(ShmState::kHere)) return false;
    const ReadHandle handle(PieceShape{.layers = place.layers, .slice_bytes = place.slice_bytes},
                            memory_->data() + place.slices_at,
                            reinterpret_cast<const uint64_t*>(memory_->data() + place.checksums_at),
                            nullptr, Tenant());
    return HoldsTestPiece(handle, number);
  }

  // Shows staging memory to the server.
  SharedMemory& Stage(uint64_t bytes) {
    staging_ = *SharedMemory::Create(bytes, false);
    Send(MakeShmPacket(ShmType::kStaging, 0), {staging_->fd()});
    return *staging_;
  }
  // Stages a test piece and puts it.
  ShmPut StagePiece(uint32_t number, PieceShape shape, uint64_t at) {
    const std::vector<std::byte> bytes = TestBytes(number, shape);
    std::byte* slices = staging_->mutable_data() + at;
    std::memcpy(slices, bytes.data(), bytes.size());
    for (uint32_t layer = 0; layer < shape.layers; ++layer) {
      const uint64_t checksum =
          SliceChecksum({bytes.data() + layer * shape.slice_bytes, shape.slice_bytes});
      std::memcpy(slices + bytes.size() + layer * 8, &checksum, 8);
    }
    return {
        .key = TestKey(number), .at = at, .slice_bytes = shape.slice_bytes, .layers = shape.layers};
  }
  ShmPutResult Put(const ShmPut& put) {
    Send(MakeShmPacket(ShmType::kPut, 9, put));
    const ShmPacket answer = Receive();
    EXPECT_EQ(TypeOf(answer), ShmType::kPutDone);
    const auto done = ReadShmFixed<ShmPutDone>(answer);
    EXPECT_TRUE(done.ok());
    return done.ok() ? static_cast<ShmPutResult>(done->result) : ShmPutResult{99};
  }

 private:
  OwnedFd socket_;
  ShmPacket buffer_ = ShmPacket(kMaxShmPacketBytes);
  ShmWelcome welcome_;
  std::shared_ptr<SharedMemory> memory_, table_, staging_;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_SERVICE_RAW_SHM_CLIENT_H_
