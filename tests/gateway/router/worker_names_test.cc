#include "gateway/router/worker_names.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using Addresses = std::vector<std::string>;

// A name server: what it says of each host may change while somebody asks.
class NameServer {
 public:
  void Set(const std::string& host, absl::StatusOr<HostAddresses> addresses) {
    absl::MutexLock lock(&mutex_);
    hosts_[host] = std::move(addresses);
    answers_since_ = 0;
  }

  absl::StatusOr<HostAddresses> Find(const std::string& host) {
    absl::MutexLock lock(&mutex_);
    ++answers_since_;
    const auto found = hosts_.find(host);
    if (found == hosts_.end()) return absl::NotFoundError(host);
    return found->second;
  }

  // Lookups that ended since the last Set; one more has then been taken in whole.
  void AwaitLookups(int count) {
    absl::MutexLock lock(&mutex_);
    auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return answers_since_ >= count; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(30)));
  }

 private:
  absl::Mutex mutex_;
  std::map<std::string, absl::StatusOr<HostAddresses>> hosts_ ABSL_GUARDED_BY(mutex_);
  int answers_since_ ABSL_GUARDED_BY(mutex_) = 0;
};

class WorkerNamesTest : public testing::Test {
 protected:
  void Start(const Addresses& names) {
    names_ = std::make_unique<WorkerNames>(
        names, [this](const std::string& host) { return server_.Find(host); },
        [this](const Addresses& addresses) { Found(addresses); }, absl::Milliseconds(5));
    names_->Start();
    names_->AwaitFirstLookup(absl::Seconds(30));
  }

  void Found(const Addresses& addresses) {
    absl::MutexLock lock(&mutex_);
    told_ = addresses;
  }

  void AwaitTold(const Addresses& addresses) {
    absl::MutexLock lock(&mutex_);
    auto same = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return told_ == addresses; };
    mutex_.AwaitWithTimeout(absl::Condition(&same), absl::Seconds(30));
    EXPECT_EQ(told_, addresses);
  }

  NameServer server_;
  absl::Mutex mutex_;
  Addresses told_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<WorkerNames> names_;
};

TEST_F(WorkerNamesTest, AnAddressIsAWorker) {
  server_.Set("worker",
              HostAddresses{.v4 = {"10.0.0.2", "10.0.0.1", "10.0.0.2"}, .v6 = {"fd00::1"}});
  server_.Set("six", HostAddresses{.v4 = {"10.0.0.9"}, .v6 = {"fd00::8", "fd00::7"}});
  Start({"10.1.1.1:1", "worker:7601", "six:7602", "[::1]:5"});
  AwaitTold({"10.1.1.1:1", "10.0.0.1:7601", "10.0.0.2:7601", "[fd00::7]:7602", "[fd00::8]:7602",
             "[::1]:5"});
}

TEST_F(WorkerNamesTest, TwoNamesOfOneMachineAreOneWorker) {
  server_.Set("a", HostAddresses{.v4 = {"10.0.0.1"}, .v6 = {}});
  server_.Set("b", HostAddresses{.v4 = {"10.0.0.1"}, .v6 = {}});
  Start({"a:1", "b:1", "b:2"});
  AwaitTold({"10.0.0.1:1", "10.0.0.1:2"});
}

TEST_F(WorkerNamesTest, OneOfEachKindIsOneMachineUntilThereAreMore) {
  server_.Set("host", HostAddresses{.v4 = {"127.0.0.1"}, .v6 = {"::1"}});
  Start({"host:1"});
  server_.AwaitLookups(3);
  AwaitTold({"host:1"});
  server_.Set("host", HostAddresses{.v4 = {"10.0.0.1", "10.0.0.2"}, .v6 = {"fd00::1", "fd00::2"}});
  AwaitTold({"10.0.0.1:1", "10.0.0.2:1"});
  server_.Set("host", HostAddresses{.v4 = {"10.0.0.2"}, .v6 = {"fd00::2"}});
  AwaitTold({"10.0.0.2:1"});
}

TEST_F(WorkerNamesTest, AFailedLookupTakesNoWorkerAway) {
  server_.Set("worker", HostAddresses{.v4 = {"10.0.0.1", "10.0.0.2"}, .v6 = {}});
  Start({"worker:1"});
  AwaitTold({"10.0.0.1:1", "10.0.0.2:1"});
  server_.Set("worker", absl::UnavailableError("no name server"));
  server_.AwaitLookups(3);
  server_.Set("worker", absl::NotFoundError("none runs"));
  server_.AwaitLookups(3);
  server_.Set("worker", HostAddresses());
  server_.AwaitLookups(3);
  AwaitTold({"10.0.0.1:1", "10.0.0.2:1"});
}

TEST_F(WorkerNamesTest, TheNumberOfAddressesIsBounded) {
  HostAddresses many;
  for (size_t i = 0; i < 2 * WorkerNames::kMaxAddresses; ++i) {
    many.v4.push_back(absl::StrCat("10.0.", i / 256, ".", i % 256));
  }
  server_.Set("worker", many);
  Start({"worker:1"});
  absl::MutexLock lock(&mutex_);
  EXPECT_EQ(told_.size(), WorkerNames::kMaxAddresses);
}

TEST(FindAddressesTest, AsksTheSystem) {
  const absl::StatusOr<HostAddresses> found = FindAddresses("localhost");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(std::count(found->v4.begin(), found->v4.end(), "127.0.0.1"), 1);
  EXPECT_FALSE(FindAddresses("no-such-host.invalid").ok());
}

}  // namespace
}  // namespace tessera
