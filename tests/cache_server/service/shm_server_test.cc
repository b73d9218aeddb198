// The server's side of shared memory, spoken to packet by packet.
#include "cache_server/service/shm_server.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "cache_server/transfer/shm_wire.h"
#include "cache_server/transfer/unix_socket.h"
#include "gtest/gtest.h"
#include "tests/cache_server/service/raw_shm_client.h"
#include "tests/cache_server/testing/shared_server.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 3, .slice_bytes = 5000};
constexpr absl::Duration kLong = absl::Seconds(20);

class ShmServerTest : public ::testing::Test {
 protected:
  void Start() { server_.Start(); }
  const std::string& path() const { return server_.shm_options.path; }
  SharedServer server_;
};

ShmState StateOf(const ShmPlace& place) { return static_cast<ShmState>(place.state); }

TEST_F(ShmServerTest, Greets) {
  Start();
  RawShmClient client(path());
  ASSERT_TRUE(client.welcome());
  EXPECT_EQ(client.facts().memory_bytes, server_.memory().size());
  EXPECT_EQ(client.facts().lease_ms, 10000u);
  EXPECT_EQ(ReadShmName(client.facts().instance), server_.shm_options.instance_id);
  EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, client.memory().fd(), 0),
            MAP_FAILED)
      << "clients only read";
  EXPECT_EQ(server_.shm().counters().sessions, 1u);
}

TEST_F(ShmServerTest, ShowsPiecesUnderALease) {
  server_.Put(1, kShape);
  Start();
  RawShmClient client(path());
  ShmLease lease;
  const auto places = client.Acquire({0, 1}, &lease);
  ASSERT_EQ(places.size(), 2u);
  EXPECT_EQ(StateOf(places[0]), ShmState::kMiss);
  EXPECT_TRUE(client.Shows(places[1], 1));
  EXPECT_EQ(ReadShmName(places[1].tier), "ram");
  EXPECT_TRUE(client.Holds(lease));
  EXPECT_EQ(server_.control->pins(), 1);
  EXPECT_EQ(server_.shm().counters().leases, 1u);
  EXPECT_EQ(server_.shm().counters().served_bytes, kShape.bytes());
  client.Send(MakeShmPacket(ShmType::kRelease, lease.id));
  EXPECT_TRUE(server_.control->WaitForNoPins(kLong));
  EXPECT_FALSE(client.Holds(lease));
}

TEST_F(ShmServerTest, MissesTakeNoLease) {
  server_.Put(2, kShape);
  Start();
  RawShmClient client(path());
  ShmLease lease;
  client.Acquire({0, 1}, &lease);
  EXPECT_EQ(lease.id, 0u);
  const auto places = client.Acquire({0, 2}, &lease, /*stop=*/true);
  EXPECT_EQ(StateOf(places[1]), ShmState::kMiss) << "behind the first miss";
  EXPECT_EQ(client.Acquire({}, &lease).size(), 0u);
  EXPECT_EQ(server_.shm().counters().leases, 0u);
}

TEST_F(ShmServerTest, LeasesExpireUnlessRenewed) {
  server_.shm_options.lease = absl::Milliseconds(400);
  server_.Put(1, kShape);
  server_.Put(2, kShape);
  Start();
  RawShmClient renews(path()), sleeps(path());
  ShmLease renewed, lost;
  renews.Acquire({1}, &renewed);
  sleeps.Acquire({2}, &lost);
  for (int i = 0; i < 8; ++i) {
    absl::SleepFor(absl::Milliseconds(100));
    renews.Send(MakeShmPacket(ShmType::kRenew, renewed.id));
  }
  EXPECT_TRUE(renews.Holds(renewed));
  EXPECT_FALSE(sleeps.Holds(lost));
  EXPECT_EQ(server_.control->pins(), 1) << "the pins of the other are gone";
  EXPECT_EQ(server_.shm().counters().expired_leases, 1u);
  // Too late: nothing comes back, and the session goes on.
  sleeps.Send(MakeShmPacket(ShmType::kRenew, lost.id));
  sleeps.Send(MakeShmPacket(ShmType::kRelease, lost.id));
  EXPECT_EQ(sleeps.Acquire({2}, &lost).size(), 1u);
}

TEST_F(ShmServerTest, LeasesDieWithTheirConnection) {
  server_.Put(1, kShape);
  Start();
  RawShmClient client(path()), other(path());
  ShmLease lease;
  client.Acquire({1}, &lease);
  client.Close();
  EXPECT_TRUE(server_.control->WaitForNoPins(kLong));
  EXPECT_FALSE(client.Holds(lease)) << "the slot is cleared before the pins go";
  EXPECT_EQ(other.Acquire({1}, &lease).size(), 1u);
}

TEST_F(ShmServerTest, NoMoreLeasesThanThereMayBe) {
  server_.shm_options.most_leases = 2;
  server_.Put(1, kShape);
  Start();
  RawShmClient client(path());
  ShmLease lease;
  client.Acquire({1}, &lease);
  client.Acquire({1}, &lease);
  client.AskFor({1}, 8);
  EXPECT_EQ(RawShmClient::TypeOf(client.Receive()), ShmType::kFailed);
  client.Send(MakeShmPacket(ShmType::kRelease, lease.id));
  EXPECT_EQ(client.Acquire({1}, &lease).size(), 1u);
}

TEST_F(ShmServerTest, NoMoreSessionsThanThereMayBe) {
  server_.shm_options.most_sessions = 1;
  Start();
  RawShmClient first(path());
  ASSERT_TRUE(first.welcome());
  const auto second = ConnectToPath(path());
  ASSERT_TRUE(second.ok());
  ShmPacket buffer(100);
  EXPECT_EQ(
      ReceivePacket(second->get(), absl::MakeSpan(buffer), absl::Now() + kLong).status().code(),
      absl::StatusCode::kUnavailable);
  EXPECT_EQ(server_.shm().counters().refused, 1u);
  EXPECT_EQ(server_.shm().counters().sessions, 1u);
}

TEST_F(ShmServerTest, WantsItsToken) {
  server_.shm_options.token = "secret";
  Start();
  for (const char* token : {"", "secre", "secret ", "SECRET"}) {
    EXPECT_FALSE(RawShmClient(path(), token).welcome()) << token;
  }
  EXPECT_EQ(server_.shm().counters().refused, 4u);
  EXPECT_TRUE(RawShmClient(path(), "secret").welcome());
}

TEST_F(ShmServerTest, RefusesAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  Start();
  ASSERT_EQ(chmod(path().c_str(), 0666), 0);  // so that only the server's own check is left
  const pid_t child = fork();
  if (child == 0) {
    if (setuid(65534) != 0) _exit(2);
    const auto socket = ConnectToPath(path());
    if (!socket.ok()) _exit(3);
    char byte = 0;
    while (recv(socket->get(), &byte, 1, MSG_DONTWAIT) < 0) {
      if (errno != EAGAIN) _exit(errno == ECONNRESET ? 0 : 4);
    }
    _exit(0);  // the end of the connection
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(server_.shm().counters().refused, 1u);
  EXPECT_EQ(server_.shm().counters().sessions, 0u);
}

TEST_F(ShmServerTest, GarbageEndsThatSessionOnly) {
  server_.Put(1, kShape);
  Start();
  RawShmClient good(path());
  ShmLease lease;
  good.Acquire({1}, &lease);
  std::minstd_rand random(5);
  for (int i = 0; i < 200; ++i) {
    RawShmClient bad(path());
    ASSERT_TRUE(bad.welcome());
    ShmPacket packet(1 + random() % 300);
    for (std::byte& byte : packet) byte = static_cast<std::byte>(random());
    if (i % 2 == 0) {
      packet.resize(std::max<size_t>(packet.size(), 16));
      std::memset(packet.data(), 0, 8);
      packet[0] = static_cast<std::byte>(random() % 12);  // a type that there is
      packet[4] = static_cast<std::byte>(random() % 3);   // and few records
    }
    bad.Send(packet);
  }
  EXPECT_TRUE(good.Holds(lease));
  EXPECT_EQ(good.Acquire({1}, &lease).size(), 1u);
  EXPECT_TRUE(server_.store().Find(TestKey(1)).has_value());
}

TEST_F(ShmServerTest, PacketsThatBreakTheRules) {
  Start();
  const std::vector<ChunkKey> many(1025, TestKey(1));
  const std::vector<ShmPacket> broken = {
      MakeShmPacket(ShmType::kAcquire, 1, ShmAcquire(), absl::MakeConstSpan(many)),
      MakeShmPacket(ShmType::kPut, 1, ShmPut{.slice_bytes = 1, .layers = 1}),  // nothing staged
      MakeShmPacket(ShmType::kStaging, 1),                                     // no descriptor
      MakeShmPacket(ShmType::kWelcome, 1, ShmWelcome()),
      MakeShmText(ShmType::kHello, kShmVersion, "again"),
      ShmPacket(5)};
  for (const ShmPacket& packet : broken) {
    RawShmClient client(path());
    client.Send(packet);
    EXPECT_TRUE(client.Receive().empty()) << "it goes on after packet " << &packet - &broken[0];
  }
  const auto socket = ConnectToPath(path());
  ASSERT_TRUE(SendPacket(socket->get(), MakeShmText(ShmType::kHello, kShmVersion + 1, ""), {},
                         absl::Now() + kLong)
                  .ok());
  ShmPacket buffer(kMaxShmPacketBytes);
  const auto answer = ReceivePacket(socket->get(), absl::MakeSpan(buffer), absl::Now() + kLong);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(ReadShmHead(buffer)->type, static_cast<uint32_t>(ShmType::kFailed));
}

TEST_F(ShmServerTest, PutsStagedPieces) {
  Start();
  RawShmClient client(path());
  client.Stage(1 << 20);
  const ShmPut put = client.StagePiece(1, kShape, 4321);
  EXPECT_EQ(client.Put(put), ShmPutResult::kStored);
  EXPECT_EQ(client.Put(put), ShmPutResult::kAlreadyPresent);
  EXPECT_TRUE(HoldsTestPiece(server_.store().GetFast(TestKey(1))->handle, 1));
  EXPECT_EQ(server_.shm().counters().put_bytes, kShape.bytes());
  ShmLease lease;
  const auto places = client.Acquire({1}, &lease);
  EXPECT_TRUE(client.Shows(places[0], 1));
}

TEST_F(ShmServerTest, DamagedPutsLeaveNothing) {
  Start();
  RawShmClient client(path());
  SharedMemory& staging = client.Stage(1 << 20);
  const ShmPut put = client.StagePiece(1, kShape, 0);
  staging.mutable_data()[kShape.bytes() + 8] ^= std::byte{1};  // the checksum of layer 1
  EXPECT_EQ(client.Put(put), ShmPutResult::kDataLoss);
  client.StagePiece(1, kShape, 0);
  staging.mutable_data()[2 * kShape.slice_bytes] ^= std::byte{1};
  EXPECT_EQ(client.Put(put), ShmPutResult::kDataLoss);
  EXPECT_FALSE(server_.store().Find(TestKey(1)).has_value());
  EXPECT_EQ(server_.used_bytes(), 0u);
  client.StagePiece(1, kShape, 0);
  EXPECT_EQ(client.Put(put), ShmPutResult::kStored);
}

TEST_F(ShmServerTest, PutsThatAreTooLargeOrOutside) {
  server_.shm_options.max_slice_bytes = 10000;
  Start();
  RawShmClient client(path());
  client.Stage(64 << 10);
  EXPECT_EQ(client.Put(client.StagePiece(1, {2, 10001}, 0)), ShmPutResult::kRejected);
  ShmPut outside = client.StagePiece(2, kShape, 0);
  outside.at = (64 << 10) - kShape.bytes() - 23;  // one byte too far
  client.Send(MakeShmPacket(ShmType::kPut, 1, outside));
  EXPECT_TRUE(client.Receive().empty());
  // A file is no memfd: a read of it could wait for ever, or fail with a signal.
  RawShmClient other(path());
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const OwnedFd reader(pipes[0]), writer(pipes[1]);
  other.Send(MakeShmPacket(ShmType::kStaging, 0), {reader.get()});
  EXPECT_TRUE(other.Receive().empty());
}

TEST_F(ShmServerTest, FindAndErase) {
  server_.Put(1, kShape);
  server_.PutBelow(3, kShape);
  Start();
  RawShmClient client(path());
  const std::vector<ChunkKey> keys = {TestKey(0), TestKey(1), TestKey(0), TestKey(3)};
  client.Send(MakeShmPacket(ShmType::kFind, 4, ShmNothing(), absl::MakeConstSpan(keys)));
  EXPECT_EQ(*ReadShmRecords<uint8_t>(client.Receive(), 4), (std::vector<uint8_t>{0, 1, 0, 1}));
  client.Send(
      MakeShmPacket(ShmType::kErase, 0, ShmNothing(), absl::MakeConstSpan(keys).subspan(1, 1)));
  EXPECT_TRUE(server_.WaitUntilGone(1, kLong));
}

TEST_F(ShmServerTest, PiecesOfALowerTierComeLater) {
  for (uint32_t number = 1; number < 40; ++number) server_.PutBelow(number, kShape);
  server_.Put(0, kShape);
  Start();
  RawShmClient client(path());
  server_.slow_control->CloseGate();
  ShmLease lease;
  std::vector<uint32_t> numbers;
  for (uint32_t number = 0; number < 40; ++number) numbers.push_back(number);
  const auto places = client.Acquire(numbers, &lease);
  EXPECT_EQ(StateOf(places[0]), ShmState::kHere);
  for (size_t i = 1; i < 40; ++i) {
    EXPECT_EQ(StateOf(places[i]), ShmState::kPending);
    EXPECT_EQ(places[i].layers, kShape.layers);
  }
  server_.slow_control->OpenGate();
  for (size_t loaded = 0; loaded < 39;) {
    const ShmPacket packet = client.Receive();
    ASSERT_EQ(RawShmClient::TypeOf(packet), ShmType::kLoaded);
    EXPECT_EQ(ReadShmHead(packet)->call, lease.id);
    const auto all = *ReadShmRecords<ShmLoaded>(packet, 40);
    for (const ShmLoaded& one : all) EXPECT_TRUE(client.Shows(one.place, one.index));
    loaded += all.size();
  }
  EXPECT_EQ(server_.shm().counters().served_bytes, 40 * kShape.bytes());
}

TEST_F(ShmServerTest, PiecesThatCannotBeLoadedAreTakenBack) {
  server_.PutBelow(1, kShape);
  Start();
  RawShmClient client(path());
  server_.slow_control->FailGets(absl::DataLossError("damaged"));
  server_.slow_control->CloseGate();
  ShmLease lease;
  EXPECT_EQ(StateOf(client.Acquire({1}, &lease)[0]), ShmState::kPending);
  server_.slow_control->OpenGate();
  const auto loaded = *ReadShmRecords<ShmLoaded>(client.Receive(), 1);
  EXPECT_EQ(StateOf(loaded[0].place), ShmState::kMiss);
}

TEST_F(ShmServerTest, AClientThatDoesNotReadIsCutOff) {
  server_.Put(1, kShape);
  Start();
  RawShmClient client(path());
  // Answers of 48 KB each, until neither side has room.
  const std::vector<ChunkKey> keys(1000, TestKey(1));
  const ShmPacket ask =
      MakeShmPacket(ShmType::kAcquire, 1, ShmAcquire(), absl::MakeConstSpan(keys));
  absl::Status sent;
  for (int i = 0; i < 1000 && sent.ok(); ++i) {
    sent = SendPacket(client.fd(), ask, {}, absl::Now() + kLong);
  }
  EXPECT_EQ(sent.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(server_.control->WaitForNoPins(kLong));
  EXPECT_EQ(server_.shm().counters().leases, 0u);
}

TEST_F(ShmServerTest, DrainingGivesNothingNew) {
  server_.Put(1, kShape);
  Start();
  RawShmClient client(path());
  client.Stage(1 << 20);
  ShmLease lease;
  client.Acquire({1}, &lease);
  server_.shm().SetDraining(true);
  client.AskFor({1}, 3);
  EXPECT_EQ(RawShmClient::TypeOf(client.Receive()), ShmType::kFailed);
  client.Send(MakeShmPacket(ShmType::kPut, 4, client.StagePiece(2, kShape, 0)));
  EXPECT_EQ(RawShmClient::TypeOf(client.Receive()), ShmType::kFailed);
  EXPECT_TRUE(client.Holds(lease));
  server_.shm().SetDraining(false);
  EXPECT_EQ(client.Acquire({1}, &lease).size(), 1u);
}

TEST_F(ShmServerTest, EndsWithItsLeases) {
  server_.Put(1, kShape);
  Start();
  RawShmClient client(path());
  ShmLease lease;
  client.Acquire({1}, &lease);
  server_.Stop();
  EXPECT_FALSE(client.Holds(lease));
  EXPECT_EQ(server_.control->pins(), 0);
  EXPECT_TRUE(client.Receive().empty());
  EXPECT_NE(access(path().c_str(), F_OK), 0) << "the socket file is gone";
}

TEST_F(ShmServerTest, OptionsThatCannotBe) {
  Start();
  const auto start = [this](auto change) {
    ShmServerOptions options = server_.shm_options;
    options.path = NewSocketPath();
    change(&options);
    auto memory = SharedMemory::Create(4096, false);
    return ShmServer::Start(options, *memory, &server_.store()).status().code();
  };
  EXPECT_EQ(start([](ShmServerOptions*) {}), absl::StatusCode::kOk);
  EXPECT_EQ(start([](ShmServerOptions* o) { o->most_leases = 0; }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start([](ShmServerOptions* o) { o->lease = absl::ZeroDuration(); }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start([](ShmServerOptions* o) { o->path = "/nowhere/socket"; }),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(start([this](ShmServerOptions* o) { o->path = path(); }),
            absl::StatusCode::kUnavailable)
      << "another server listens there";
}

}  // namespace
}  // namespace tessera::testing
