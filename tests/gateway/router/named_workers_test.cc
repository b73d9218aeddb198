// Workers that come and go while a WorkerPool serves.
#include <memory>
#include <string>
#include <vector>

#include "tests/gateway/router/pool_fixture.h"

namespace tessera {
namespace {

class NamedWorkersTest : public PoolFixture {
 protected:
  void SetUp() override {
    first_ = Stub();
    second_ = Stub();
  }

  void Start(const std::vector<std::string>& addresses, size_t max_workers = 1024) {
    StartPool(addresses, {.max_workers = max_workers, .poll_up = absl::Milliseconds(20)});
  }

  std::vector<std::string> Named() {
    std::vector<std::string> addresses;
    for (const WorkerState& state : pool_->States()) addresses.push_back(state.address);
    return addresses;
  }

  std::unique_ptr<StubWorker> first_;
  std::unique_ptr<StubWorker> second_;
};

TEST_F(NamedWorkersTest, OneThatComesIsUsed) {
  Start({first_->address()});
  AwaitReadyWorkers(1);
  pool_->SetAddresses({first_->address(), second_->address(), second_->address()});
  AwaitReadyWorkers(2);
  first_->Kill();
  EXPECT_TRUE(Run(Request({1})).ok());
  EXPECT_EQ(second_->calls(), 1);
}

TEST_F(NamedWorkersTest, OneThatLeavesEndsWhatItRunsAndGetsNothingNew) {
  Start({first_->address()});
  AwaitReadyWorkers(1);
  first_->Set({.hold_after = 1});
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  listener.AwaitEvents(1);
  pool_->SetAddresses({second_->address()});
  AwaitReadyWorkers(1);
  EXPECT_EQ(Named(), std::vector<std::string>{second_->address()});
  for (uint32_t i = 0; i < 5; ++i) EXPECT_TRUE(Run(Request({i})).ok());
  EXPECT_EQ(first_->calls(), 1);
  EXPECT_EQ(second_->calls(), 5);
  first_->Release();
  EXPECT_TRUE(listener.Wait().ok());
  EXPECT_EQ(pool_->Totals().lost_workers, 0u);
}

TEST_F(NamedWorkersTest, OneThatLeftAndFallsSilentIsGivenUp) {
  StartPool({first_->address()}, {.poll_up = absl::Milliseconds(20),
                                  .poll_deadline = absl::Milliseconds(50),
                                  .give_up = absl::Milliseconds(100)});
  AwaitReadyWorkers(1);
  first_->Set({.hold_after = 1, .hold_model = true});
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  listener.AwaitEvents(1);
  pool_->SetAddresses({second_->address()});
  EXPECT_TRUE(absl::IsUnavailable(listener.Wait()));
}

TEST_F(NamedWorkersTest, OneThatComesBackIsUsedOnceItAnswers) {
  Start({first_->address(), second_->address()});
  AwaitReadyWorkers(2);
  pool_->SetAddresses({second_->address()});
  EXPECT_EQ(Named(), std::vector<std::string>{second_->address()});
  first_->Set({.hold_model = true});
  pool_->SetAddresses({first_->address(), second_->address()});
  EXPECT_FALSE(pool_->States()[0].ready);
  first_->Release();
  AwaitReadyWorkers(2);
}

TEST_F(NamedWorkersTest, NoneThatIsNamedIsNoWorker) {
  Start({first_->address()});
  AwaitReadyWorkers(1);
  pool_->SetAddresses({});
  EXPECT_FALSE(pool_->ready());
  EXPECT_TRUE(absl::IsUnavailable(Run(Request({1}))));
}

TEST_F(NamedWorkersTest, PlacesAreBoundedAndUsedAgain) {
  const std::unique_ptr<StubWorker> third = Stub();
  Start({first_->address(), second_->address()}, /*max_workers=*/2);
  AwaitReadyWorkers(2);
  pool_->SetAddresses({first_->address(), second_->address(), third->address()});
  EXPECT_EQ(Named().size(), 2u);
  // A worker leaves its place when nobody asks it any more.
  Await([&] {
    pool_->SetAddresses({second_->address(), third->address()});
    return Named().size() == 2;
  });
  AwaitReadyWorkers(2);
  EXPECT_EQ(Named(), (std::vector<std::string>{third->address(), second_->address()}));
  second_->Kill();
  EXPECT_TRUE(Run(Request({1})).ok());
  EXPECT_EQ(third->calls(), 1);
  EXPECT_EQ(first_->calls(), 0);
}

// What was known of a place's last worker is not believed of its next one.
TEST_F(NamedWorkersTest, AnotherWorkerInAPlaceHasNoChunksOfTheLast) {
  Start({first_->address()}, /*max_workers=*/1);
  AwaitReadyWorkers(1);
  ASSERT_TRUE(Run(ChunksRequest({1})).ok());
  ASSERT_TRUE(Run(ChunksRequest({1})).ok());
  ASSERT_EQ(pool_->Totals().by_affinity, 1u);
  Await([&] {
    pool_->SetAddresses({second_->address()});
    return Named() == std::vector<std::string>{second_->address()};
  });
  AwaitReadyWorkers(1);
  ASSERT_TRUE(Run(ChunksRequest({1})).ok());
  EXPECT_EQ(pool_->Totals().by_affinity, 1u);
}

}  // namespace
}  // namespace tessera
