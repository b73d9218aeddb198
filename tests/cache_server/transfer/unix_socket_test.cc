#include "cache_server/transfer/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);

class UnixSocketTest : public ::testing::Test {
 protected:
  UnixSocketTest() : path_(absl::StrCat("/tmp/tessera_unix_socket_test_", getpid())) {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    left_ = OwnedFd(pair[0]);
    right_ = OwnedFd(pair[1]);
  }
  ~UnixSocketTest() override { unlink(path_.c_str()); }

  static std::vector<std::byte> Bytes(size_t count, int seed = 1) {
    std::vector<std::byte> bytes(count);
    for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 31 + seed);
    return bytes;
  }

  const std::string path_;
  OwnedFd left_, right_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(128 << 10);
};

TEST_F(UnixSocketTest, PacketsKeepTheirBorders) {
  const absl::Time soon = absl::Now() + kLong;
  ASSERT_TRUE(SendPacket(left_.get(), Bytes(10), {}, soon).ok());
  ASSERT_TRUE(SendPacket(left_.get(), Bytes(128 << 10, 2), {}, soon).ok());
  for (const size_t size : {size_t{10}, size_t{128} << 10}) {
    const auto packet = ReceivePacket(right_.get(), absl::MakeSpan(buffer_), soon);
    ASSERT_TRUE(packet.ok()) << packet.status();
    EXPECT_EQ(packet->bytes, size);
    const std::vector<std::byte> wanted = Bytes(size, size == 10 ? 1 : 2);
    EXPECT_EQ(std::memcmp(buffer_.data(), wanted.data(), size), 0);
  }
}

TEST_F(UnixSocketTest, DescriptorsTravel) {
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  OwnedFd reader(pipes[0]), writer(pipes[1]);
  const std::array<int, 1> fds = {writer.get()};
  const absl::Time soon = absl::Now() + kLong;
  ASSERT_TRUE(SendPacket(left_.get(), Bytes(1), fds, soon).ok());
  writer.Reset();
  auto packet = ReceivePacket(right_.get(), absl::MakeSpan(buffer_), soon);
  ASSERT_TRUE(packet.ok());
  ASSERT_EQ(packet->fds.size(), 1u);
  EXPECT_NE(fcntl(packet->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  ASSERT_EQ(write(packet->fds[0].get(), "x", 1), 1);
  char got = 0;
  EXPECT_EQ(read(reader.get(), &got, 1), 1);
  EXPECT_EQ(got, 'x');
  packet->fds.clear();
  EXPECT_EQ(read(reader.get(), &got, 1), 0) << "nobody else holds it";
}

TEST_F(UnixSocketTest, TooLargeOrTooManyDescriptors) {
  const absl::Time soon = absl::Now() + kLong;
  ASSERT_TRUE(SendPacket(left_.get(), Bytes(11), {}, soon).ok());
  EXPECT_EQ(ReceivePacket(right_.get(), absl::MakeSpan(buffer_).first(10), soon).status().code(),
            absl::StatusCode::kInvalidArgument);
  const std::vector<int> five(5, left_.get());
  EXPECT_EQ(SendPacket(left_.get(), Bytes(1), five, soon).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(UnixSocketTest, WaitsEnd) {
  EXPECT_EQ(
      ReceivePacket(right_.get(), absl::MakeSpan(buffer_), absl::InfinitePast()).status().code(),
      absl::StatusCode::kDeadlineExceeded);
  absl::Status sent;
  int packets = 0;
  while (sent.ok() && packets < 1000) {
    sent = SendPacket(left_.get(), Bytes(64 << 10), {}, absl::Now() + absl::Milliseconds(20));
    if (sent.ok()) ++packets;
  }
  EXPECT_EQ(sent.code(), absl::StatusCode::kDeadlineExceeded) << "nobody reads";
  EXPECT_GT(packets, 0);
  left_.Reset();
  // What was sent is still there; then the end.
  for (int i = 0; i < packets; ++i) {
    EXPECT_TRUE(ReceivePacket(right_.get(), absl::MakeSpan(buffer_), absl::InfinitePast()).ok());
  }
  EXPECT_EQ(
      ReceivePacket(right_.get(), absl::MakeSpan(buffer_), absl::Now() + kLong).status().code(),
      absl::StatusCode::kUnavailable);
  EXPECT_EQ(SendPacket(right_.get(), Bytes(1), {}, absl::Now() + kLong).code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(UnixSocketTest, ShutdownWakesAReader) {
  std::thread closer([this] { shutdown(right_.get(), SHUT_RDWR); });
  EXPECT_EQ(
      ReceivePacket(right_.get(), absl::MakeSpan(buffer_), absl::Now() + kLong).status().code(),
      absl::StatusCode::kUnavailable);
  closer.join();
}

TEST_F(UnixSocketTest, ListensForItsOwnUserOnly) {
  const auto listener = ListenOnPath(path_, 4);
  ASSERT_TRUE(listener.ok()) << listener.status();
  struct stat file = {};
  ASSERT_EQ(stat(path_.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  const auto client = ConnectToPath(path_);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(*PeerUid(client->get()), geteuid());
}

TEST_F(UnixSocketTest, ADeadServersFileIsReplacedALiveOneIsNot) {
  {
    const auto dead = ListenOnPath(path_, 4);
    ASSERT_TRUE(dead.ok());
  }
  EXPECT_EQ(ConnectToPath(path_).status().code(), absl::StatusCode::kUnavailable);
  const auto live = ListenOnPath(path_, 4);
  ASSERT_TRUE(live.ok()) << live.status();
  EXPECT_EQ(ListenOnPath(path_, 4).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(UnixSocketTest, PathsThatCannotBe) {
  EXPECT_EQ(ListenOnPath("", 4).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ListenOnPath("/tmp/" + std::string(200, 'x'), 4).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ListenOnPath("/nowhere/socket", 4).status().code(),
            absl::StatusCode::kFailedPrecondition);
  // A file that is no socket is nobody's to remove.
  const OwnedFd file(open(path_.c_str(), O_CREAT | O_WRONLY, 0600));
  ASSERT_TRUE(file.valid());
  EXPECT_EQ(ListenOnPath(path_, 4).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(access(path_.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace tessera
