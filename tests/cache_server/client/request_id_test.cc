// Which request a client's calls are for, as it stands in the server's log.
#include "cache_server/client/request_id.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/log.h"
#include "cache_server/client/cache_client.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/server_fixture.h"
#include "tests/cache_server/testing/shared_server.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 2, .slice_bytes = 1000};
constexpr absl::Duration kLong = absl::Seconds(30);

TEST(SendableIdTest, OnlyWhatAHeaderCanCarryIsSent) {
  EXPECT_TRUE(IsSendableId("4f1c-\"=\\:~"));
  EXPECT_TRUE(IsSendableId(std::string(128, 'x')));
  for (const std::string& bad :
       {std::string(), std::string(129, 'x'), std::string("a b"), std::string("a\nb"),
        std::string("a\0b", 3), std::string("\x7f"), std::string("é")}) {
    EXPECT_FALSE(IsSendableId(bad)) << bad;
  }
}

class RequestIdTest : public ::testing::TestWithParam<bool> {
 protected:
  // The server's lines about calls. The server ends first, so that none is still to come.
  template <typename Work>
  std::vector<std::string> CallLines(Work work) {
    ::testing::internal::CaptureStderr();
    {
      SharedServer server;
      server.Start();
      auto client = MakeCacheClient({.address = server.address(), .shared_memory = GetParam()});
      EXPECT_TRUE(client.ok());
      work(**client);
    }
    std::vector<std::string> lines;
    const std::string log = ::testing::internal::GetCapturedStderr();
    for (const std::string& line : std::vector<std::string>(absl::StrSplit(log, '\n'))) {
      if (absl::StrContains(line, "_done ")) lines.emplace_back(line);
    }
    return lines;
  }

  static size_t Count(const std::vector<std::string>& lines, const std::string& words) {
    size_t count = 0;
    for (const std::string& line : lines) count += absl::StrContains(line, words) ? 1 : 0;
    return count;
  }

  const std::string way_ = GetParam() ? " transport=shm " : " transport=grpc ";
};

INSTANTIATE_TEST_SUITE_P(Transports, RequestIdTest, ::testing::Bool());

TEST_P(RequestIdTest, EveryCallIsLoggedWithItsRequest) {
  const std::vector<std::string> lines = CallLines([](CacheClient& client) {
    PieceMemory first(0, 3, kShape), second(3, 2, kShape), fetched(0, 6, kShape);
    EXPECT_EQ(client.Store(first.Sources(), {kLong, "first"}), 3u);
    EXPECT_EQ(client.Store(second.Sources(), {kLong, "second"}), 2u);
    FetchOptions options = {.timeout = kLong, .request_id = "third"};
    const auto stream = client.Fetch(fetched.Targets(), options);
    EXPECT_TRUE(stream->WaitForSlice(4, kShape.layers - 1));
    EXPECT_FALSE(stream->WaitForSlice(5, 0));
    EXPECT_EQ(client.FindMissing({TestKey(1), TestKey(7)}, {kLong, "fourth"}),
              (std::vector<bool>{false, true}));
  });
  EXPECT_EQ(Count(lines, absl::StrCat("event=store_done request=first", way_,
                                      "stored=3 present=0 rejected=0 bytes=6000 ")),
            1u);
  EXPECT_EQ(Count(lines, absl::StrCat("event=store_done request=second", way_, "stored=2 ")), 1u);
  EXPECT_EQ(Count(lines, absl::StrCat("event=fetch_done request=third", way_,
                                      "keys=6 hits=5 lost=0 tiers=ram:5 bytes=10000 ")),
            1u);
  // A small question always goes over gRPC.
  EXPECT_EQ(Count(lines, "event=lookup_done request=fourth transport=grpc keys=2 missing=1 "), 1u);
}

TEST_P(RequestIdTest, CallsOfNoRequestAreNoNews) {
  const auto work = [](CacheClient& client) {
    PieceMemory stored(0, 2, kShape), more(2, 1, kShape), fetched(0, 2, kShape);
    EXPECT_EQ(client.Store(stored.Sources(), {kLong, "named"}), 2u);
    EXPECT_EQ(client.Store(more.Sources(), kLong), 1u);
    EXPECT_TRUE(client.Fetch(fetched.Targets(), {.timeout = kLong})->WaitForSlice(1, 1));
    FetchOptions forged = {.timeout = kLong, .request_id = "a\nts=0 event=forged"};
    EXPECT_TRUE(client.Fetch(fetched.Targets(), forged)->WaitForSlice(1, 1));
  };
  const std::vector<std::string> lines = CallLines(work);
  EXPECT_EQ(Count(lines, "event=store_done"), 1u);
  EXPECT_EQ(Count(lines, "event=fetch_done"), 0u);
  EXPECT_EQ(Count(lines, "forged"), 0u);
  SetLogLevel(LogLevel::kDebug);
  const std::vector<std::string> all = CallLines(work);
  SetLogLevel(LogLevel::kInfo);
  EXPECT_EQ(Count(all, "event=store_done"), 2u);
  EXPECT_EQ(Count(all, "event=fetch_done"), 2u);
  EXPECT_EQ(Count(all, "request="), Count(all, "request=named"));
}

}  // namespace
}  // namespace tessera::testing
