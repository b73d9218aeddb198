// One connection of the shared-memory service (cache_server/service/shm_session.h), whose client
// sends anything.
//
// The input is a byte of options, then steps: a byte that says which, then its arguments. After
// each step all answers are read. Every place that the session names lies in the memory, and holds,
// under its lease, slices with right checksums; when the connection has ended no lease is left, and
// when then everything is erased, no byte.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/log.h"
#include "cache_server/chunk/checksum.h"
#include "cache_server/chunk/shared_memory.h"
#include "cache_server/service/shm_session.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/ram_tier.h"
#include "cache_server/transfer/shm_wire.h"
#include "cache_server/transfer/unix_socket.h"
#include "glog/logging.h"
#include "tests/fuzz/input.h"

namespace tessera::fuzz {
namespace {

constexpr uint64_t kMemoryBytes = 128 << 10;
constexpr uint64_t kStagingBytes = 64 << 10;
constexpr int kMostSteps = 64;
constexpr uint64_t kMarker = 0xF0F0F0F0F0F0F0F0;
constexpr char kToken[] = "token";

std::shared_ptr<SharedMemory> NewMemory(uint64_t bytes) {
  auto memory = SharedMemory::Create(bytes, /*huge_pages=*/false);
  CHECK(memory.ok()) << memory.status();
  return *std::move(memory);
}

// What lives as long as the process: threads cost more than most inputs do.
struct World {
  World() {
    std::vector<std::unique_ptr<Tier>> tiers;
    context.memory = NewMemory(kMemoryBytes);
    tiers.push_back(MakeRamTier(context.memory, {}));
    tiers.push_back(MakeRamTier(NewMemory(kMemoryBytes), {}));
    ChunkStoreOptions options;
    options.loader.threads = 1;
    options.admission = AdmissionKind::kPinned;
    store = std::make_unique<ChunkStore>(std::move(tiers), options);
    context.options.lease = absl::Hours(1);
    context.options.max_keys_per_call = 32;
    context.options.max_slice_bytes = 32 << 10;
    context.options.token = kToken;
    context.options.instance_id = "fuzz";
    context.store = store.get();
    context.leases = LeaseTable::Create(4).value();
  }

  std::unique_ptr<ChunkStore> store;
  ShmContext context;
  const std::shared_ptr<SharedMemory> staging = NewMemory(kStagingBytes);
};

World& TheWorld() {
  static World& world = *new World;
  return world;
}

ChunkKey KeyOf(uint8_t number) { return MakePieceKey(ChunkKey(), 256, number % 16); }

// A descriptor of one of the kinds that a client might send as its memory.
OwnedFd StagingOfKind(uint8_t kind) {
  switch (kind % 5) {
    case 0:
      return OwnedFd(memfd_create("not sealed", MFD_ALLOW_SEALING));
    case 1:
      return OwnedFd(open("/dev/zero", O_RDONLY));
    case 2:
      return OwnedFd(open("/", O_RDONLY | O_DIRECTORY));
    case 3: {  // far larger than it has memory
      OwnedFd fd(memfd_create("sparse", MFD_ALLOW_SEALING));
      PCHECK(ftruncate(fd.get(), off_t{1} << 40) == 0);
      PCHECK(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
      return fd;
    }
    default:
      return OwnedFd(dup(TheWorld().staging->fd()));
  }
}

class Client {
 public:
  explicit Client(Input input) : input_(input) {
    int ends[2];
    PCHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    socket_ = OwnedFd(ends[0]);
    session_ = std::make_unique<ShmSession>(OwnedFd(ends[1]), Waker::Create().value(),
                                            &TheWorld().context, [] {});
  }

  void Run() {
    if (input_.Byte() % 4 != 0) Hello(/*right=*/true);
    for (int step = 0; step < kMostSteps && !input_.empty() && open_; ++step) Step();
    socket_.Reset();
    session_ = nullptr;
    World& world = TheWorld();
    CHECK_EQ(world.context.leases->held(), 0u) << "a lease outlives its connection";
    CHECK_EQ(world.context.sessions.load(), 0u);
    world.context.draining = false;
    EraseAll();
  }

 private:
  void Step();
  void Hello(bool right);
  void Acquire();
  void Put();
  void PutBelow();
  void SendRaw();
  void SendStaging();
  std::vector<ChunkKey> Keys();
  uint64_t LeaseId();

  void Send(const ShmPacket& packet, absl::Span<const int> fds = {});
  // Reads all answers to what was sent so far; the marker's comes last.
  void ReadAnswers();
  void Check(absl::Span<const std::byte> packet);
  void CheckPlace(const ShmPlace& place) const;
  void EraseAll();

  Input input_;
  OwnedFd socket_;
  std::unique_ptr<ShmSession> session_;
  bool open_ = true;
  bool greeted_ = false;
  uint64_t call_ = 0;
  uint64_t last_lease_ = 0;
  std::set<uint64_t> held_;  // leases that were given and not released
};

void Client::Step() {
  const uint8_t what = input_.Byte() % 13;
  switch (what) {
    case 0:
      return Hello(/*right=*/false);
    case 1:
    case 2:
      return Acquire();
    case 3:
      return Send(MakeShmPacket(ShmType::kRenew, LeaseId()));
    case 4:
      return Send(MakeShmPacket(ShmType::kRelease, LeaseId()));
    case 5:
      return Send(
          MakeShmPacket(ShmType::kFind, ++call_, ShmNothing(), absl::MakeConstSpan(Keys())));
    case 6:
      return SendStaging();
    case 7:
    case 8:
      return Put();
    case 9:
      return Send(MakeShmPacket(ShmType::kErase, 0, ShmNothing(), absl::MakeConstSpan(Keys())));
    case 10:
      return SendRaw();
    case 12: {
      const auto letter = static_cast<char>(input_.Byte());
      return Send(MakeShmText(ShmType::kRequest, 0, std::string(input_.Byte(), letter)));
    }
    default:
      TheWorld().context.draining = input_.Byte() % 4 == 0;
      return PutBelow();
  }
}

void Client::Hello(bool right) {
  std::string token = kToken;
  uint64_t version = kShmVersion;
  if (!right) {
    version += input_.Byte() % 2;
    const auto bytes = input_.Bytes(input_.Byte() % 8);
    token.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  Send(MakeShmText(ShmType::kHello, version, token));
}

std::vector<ChunkKey> Client::Keys() {
  std::vector<ChunkKey> keys(input_.Byte() % 36);
  for (ChunkKey& key : keys) key = KeyOf(input_.Byte());
  return keys;
}

uint64_t Client::LeaseId() {
  const uint8_t back = input_.Byte();
  return back < 200 ? last_lease_ - back % 4 : input_.Number<uint64_t>();
}

void Client::Acquire() {
  const ShmAcquire acquire = {.stop_at_first_miss = input_.Byte() % 2u};
  Send(MakeShmPacket(ShmType::kAcquire, ++call_, acquire, absl::MakeConstSpan(Keys())));
}

// Stages a piece, perhaps not where it is said to be, perhaps damaged.
void Client::Put() {
  ShmPut put = {.key = KeyOf(input_.Byte())};
  put.layers = 1 + input_.Byte() % 4;
  put.slice_bytes = input_.Number<uint16_t>();
  put.at = input_.Number<uint16_t>();
  const uint8_t wrong = input_.Byte();
  std::byte* const memory = TheWorld().staging->mutable_data();
  const uint64_t staged = ShmStagedBytes(put.layers, put.slice_bytes);
  if (staged > 0 && staged <= kStagingBytes && put.at <= kStagingBytes - staged) {
    for (uint32_t layer = 0; layer < put.layers; ++layer) {
      std::byte* const slice = memory + put.at + layer * put.slice_bytes;
      std::memset(slice, layer + put.key.bytes[0], put.slice_bytes);
      const uint64_t checksum = SliceChecksum({slice, put.slice_bytes}) + (wrong % 8 == 1);
      std::memcpy(memory + put.at + put.layers * put.slice_bytes + layer * sizeof(checksum),
                  &checksum, sizeof(checksum));
    }
  }
  if (wrong % 8 == 2) put.layers = input_.Number<uint32_t>();
  if (wrong % 8 == 3) put.slice_bytes = input_.Number<uint64_t>();
  if (wrong % 8 == 4) put.at = input_.Number<uint64_t>();
  Send(MakeShmPacket(ShmType::kPut, ++call_, put));
}

// A piece that lies below memory, so that it must be loaded.
void Client::PutBelow() {
  Tier& below = *TheWorld().store->tiers()[1];
  const PieceShape shape = {.layers = 1u + input_.Byte() % 3,
                            .slice_bytes = uint64_t{1} + input_.Number<uint16_t>() % 20000};
  absl::StatusOr<WriteHandle> room = below.Allocate(KeyOf(input_.Byte()), shape, {});
  if (!room.ok()) return;
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    std::memset(room->slice(layer).data(), static_cast<int>(layer), shape.slice_bytes);
    room->set_checksum(layer, SliceChecksum(room->slice(layer)));
  }
  CHECK(below.Commit(*std::move(room)).ok());
}

void Client::SendRaw() {
  ShmHead head;
  head.type = input_.Byte();
  head.count = input_.Byte() < 250 ? input_.Byte() : input_.Number<uint32_t>();
  head.call = input_.Byte();
  const auto rest = input_.Bytes(input_.Byte());
  ShmPacket packet(sizeof(head) + rest.size());
  std::memcpy(packet.data(), &head, sizeof(head));
  std::copy(rest.begin(), rest.end(), packet.begin() + sizeof(head));
  const uint8_t cut = input_.Byte();
  if (cut != 0 && cut < packet.size()) packet.resize(cut);
  Send(packet);
}

void Client::SendStaging() {
  const uint8_t kind = input_.Byte();
  const OwnedFd fd = StagingOfKind(kind);
  const std::array<int, 2> fds = {fd.get(), fd.get()};
  Send(MakeShmPacket(ShmType::kStaging, 0),
       absl::MakeConstSpan(fds).first(kind < 240 ? 1 : kind % 3));
}

void Client::Send(const ShmPacket& packet, absl::Span<const int> fds) {
  const absl::Time patience = absl::Now() + absl::Seconds(10);
  if (!open_) return;
  if (const auto head = ReadShmHead(packet); head.ok()) {
    if (head->type == static_cast<uint32_t>(ShmType::kRelease)) held_.erase(head->call);
  }
  open_ = SendPacket(socket_.get(), packet, fds, patience).ok();
  if (open_ && greeted_) {
    const ShmPacket marker = MakeShmPacket(ShmType::kFind, kMarker);
    open_ = SendPacket(socket_.get(), marker, {}, patience).ok();
  }
  ReadAnswers();
}

void Client::ReadAnswers() {
  std::vector<std::byte> buffer(kMaxShmPacketBytes);
  while (open_) {
    const auto received =
        ReceivePacket(socket_.get(), absl::MakeSpan(buffer), absl::Now() + absl::Seconds(10));
    if (!received.ok()) {
      CHECK(absl::IsUnavailable(received.status())) << received.status();
      open_ = false;
      return;
    }
    // A copy that ends where the packet ends, so that a read past it is found.
    const std::vector<std::byte> packet(buffer.begin(), buffer.begin() + received->bytes);
    const ShmHead head = ReadShmHead(packet).value();
    CHECK(greeted_ || head.type == static_cast<uint32_t>(ShmType::kWelcome) ||
          head.type == static_cast<uint32_t>(ShmType::kFailed));
    Check(packet);
    if (!std::exchange(greeted_, true)) return;
    if (head.type == static_cast<uint32_t>(ShmType::kFound) && head.call == kMarker) return;
  }
}

void Client::Check(absl::Span<const std::byte> packet) {
  switch (const ShmHead head = *ReadShmHead(packet); static_cast<ShmType>(head.type)) {
    case ShmType::kWelcome: {
      const auto welcome = ReadShmFixed<ShmWelcome>(packet);
      CHECK(welcome.ok() && welcome->memory_bytes == kMemoryBytes);
      return;
    }
    case ShmType::kAcquired: {
      const auto lease = ReadShmFixed<ShmLease, ShmPlace>(packet, kMostShmKeys).value();
      const auto places = ReadShmRecords<ShmPlace, ShmLease>(packet, kMostShmKeys).value();
      const auto is_miss = [](const ShmPlace& place) { return place.state == 0; };
      CHECK_EQ(lease.id == 0, std::all_of(places.begin(), places.end(), is_miss));
      if (lease.id == 0) return;
      last_lease_ = lease.id;
      held_.insert(lease.id);
      CHECK(IsLeaseHeld(TheWorld().context.leases->memory(), {lease.id, lease.slot}));
      for (const ShmPlace& place : places) CheckPlace(place);
      return;
    }
    case ShmType::kLoaded: {
      const auto loaded = ReadShmRecords<ShmLoaded>(packet, kMostShmKeys).value();
      for (const ShmLoaded& one : loaded) {
        CHECK_NE(one.place.state, static_cast<uint32_t>(ShmState::kPending));
        // Who has released the lease meanwhile has no promise.
        if (held_.contains(head.call)) CheckPlace(one.place);
      }
      return;
    }
    case ShmType::kFound:
      CHECK(ReadShmRecords<uint8_t>(packet, kMostShmKeys).ok());
      return;
    case ShmType::kPutDone:
      CHECK(ReadShmFixed<ShmPutDone>(packet).ok());
      return;
    case ShmType::kFailed:
      CHECK(ReadShmText(packet).ok());
      return;
    default:
      LOG(FATAL) << "an answer of type " << head.type;
  }
}

void Client::CheckPlace(const ShmPlace& place) const {
  if (place.state != static_cast<uint32_t>(ShmState::kHere)) return;
  CHECK(ShmPlaceFits(place, kMemoryBytes));
  const std::byte* const memory = TheWorld().context.memory->data();
  for (uint32_t layer = 0; layer < place.layers; ++layer) {
    uint64_t checksum;
    std::memcpy(&checksum, memory + place.checksums_at + layer * sizeof(checksum),
                sizeof(checksum));
    const std::byte* const slice = memory + place.slices_at + layer * place.slice_bytes;
    CHECK_EQ(SliceChecksum({slice, place.slice_bytes}), checksum);
  }
}

void Client::EraseAll() {
  ChunkStore& store = *TheWorld().store;
  // A load that is under way may put a key back.
  const absl::Time patience = absl::Now() + absl::Seconds(10);
  const auto used = [&store] {
    for (const auto& tier : store.tiers()) {
      for (const TierEntry& entry : tier->List()) store.Erase(entry.key);
    }
    return store.Stats()[0].used_bytes + store.Stats()[1].used_bytes;
  };
  while (store.counters().loads.waiting > 0 || used() > 0) {
    CHECK(absl::Now() < patience) << used() << " bytes that nobody has";
    std::this_thread::yield();
  }
}

}  // namespace

void FuzzShmSession(const uint8_t* bytes, size_t size) { Client(Input(bytes, size)).Run(); }

}  // namespace tessera::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  tessera::SetLogLevel(tessera::LogLevel::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  tessera::fuzz::FuzzShmSession(bytes, size);
  return 0;
}
