#include "gpu_worker/serve/scheduler.h"

#include <algorithm>
#include <map>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

using Ids = std::vector<uint64_t>;

SchedulerEntry Waiting(uint64_t id, int64_t blocks, int32_t priority = 0) {
  return {.id = id,
          .priority = priority,
          .rank = static_cast<double>(id) + 100.0 * priority,
          .stage = Stage::kWaiting,
          .blocks = blocks};
}

SchedulerEntry Prefilling(uint64_t id, int64_t held, bool is_new = false, bool is_loading = false) {
  SchedulerEntry entry = Waiting(id, 0);
  entry.stage = Stage::kPrefilling;
  entry.blocks_held = held;
  entry.is_new = is_new;
  entry.is_loading = is_loading;
  return entry;
}

SchedulerEntry Decoding(uint64_t id, int64_t held, int64_t blocks = 0, int32_t priority = 0) {
  SchedulerEntry entry = Waiting(id, blocks, priority);
  entry.stage = Stage::kDecoding;
  entry.blocks_held = held;
  return entry;
}

TEST(SchedulerTest, StartsInOrderOfRankWhileThereIsRoom) {
  const SchedulerState state = {
      .entries = {Waiting(3, 4), Waiting(1, 5), Waiting(2, 9, -1), Waiting(4, 1)},
      .free_blocks = 18};
  const Batch batch = Schedule(state, {});
  EXPECT_EQ(batch.started, (Ids{2, 1, 3})) << "the fourth has no block";
  EXPECT_EQ(batch.prefilled, 2u);
}

TEST(SchedulerTest, NobodyOvertakesOneThatDoesNotFit) {
  const SchedulerState state = {.entries = {Decoding(1, 10), Waiting(2, 9), Waiting(3, 1)},
                                .free_blocks = 9};
  EXPECT_TRUE(Schedule(state, {}).started.empty()) << "a block is kept for the one that decodes";
  SchedulerState roomy = state;
  roomy.free_blocks = 12;
  EXPECT_EQ(Schedule(roomy, {}).started, (Ids{2, 3}));
}

TEST(SchedulerTest, PlacesAreBounded) {
  SchedulerState state = {.free_blocks = 1000};
  for (uint64_t id = 0; id < 10; ++id) state.entries.push_back(Waiting(id, 1));
  EXPECT_EQ(Schedule(state, {.max_running = 3, .max_prefilling = 9}).started, (Ids{0, 1, 2}));
  EXPECT_EQ(Schedule(state, {.max_running = 9, .max_prefilling = 2}).started, (Ids{0, 1}));
  state.entries[0] = Decoding(0, 1);
  state.entries[1] = Prefilling(1, 1);
  EXPECT_EQ(Schedule(state, {.max_running = 9, .max_prefilling = 3}).started, (Ids{2, 3}));
}

TEST(SchedulerTest, TheLastInOrderGivesItsBlocksUp) {
  const SchedulerState state = {.entries = {Decoding(1, 5, 2), Decoding(2, 5, 1), Prefilling(3, 4),
                                            Decoding(4, 1, 1), Waiting(5, 1)},
                                .free_blocks = 1};
  const Batch batch = Schedule(state, {});
  EXPECT_EQ(batch.preempted, (Ids{4, 3}));
  EXPECT_EQ(batch.decoded, (Ids{1, 2}));
  EXPECT_TRUE(batch.started.empty());
}

TEST(SchedulerTest, TheFirstTakesAllIfItMust) {
  const SchedulerState state = {
      .entries = {Decoding(1, 5, 6), Decoding(2, 2, 0), Decoding(3, 3, 0)}, .free_blocks = 1};
  const Batch batch = Schedule(state, {});
  EXPECT_EQ(batch.preempted, (Ids{3, 2}));
  EXPECT_EQ(batch.decoded, (Ids{1}));
}

TEST(SchedulerTest, OneThatNeedsMoreThanTheLaterOnesHaveGivesItsOwnUp) {
  const SchedulerState state = {.entries = {Decoding(1, 9, 0), Decoding(2, 2, 3)},
                                .free_blocks = 0};
  const Batch batch = Schedule(state, {});
  EXPECT_EQ(batch.decoded, (Ids{1}));
  EXPECT_EQ(batch.preempted, (Ids{2}));
}

TEST(SchedulerTest, ABetterPriorityTakesThePlaceOfALaterOneOfAWorse) {
  SchedulerState state = {
      .entries = {Decoding(1, 5), Decoding(2, 5, 0, /*priority=*/1), Waiting(3, 4)},
      .free_blocks = 0};
  Batch batch = Schedule(state, {});
  EXPECT_EQ(batch.preempted, (Ids{2}));
  EXPECT_EQ(batch.started, (Ids{3}));
  EXPECT_EQ(batch.decoded, (Ids{1}));
  state.entries[2].rank = 500;  // but the other one has waited long enough before
  batch = Schedule(state, {});
  EXPECT_TRUE(batch.preempted.empty());
  EXPECT_TRUE(batch.started.empty());
  state.entries[2] = Waiting(3, 40);  // and not for nothing
  EXPECT_TRUE(Schedule(state, {}).preempted.empty());
}

TEST(SchedulerTest, ANewPrefillAsksForItsChunksFirst) {
  SchedulerState state = {.entries = {Prefilling(1, 5), Prefilling(2, 5, /*is_new=*/true)}};
  EXPECT_EQ(Schedule(state, {}).prefilled, 2u);
  state.entries[1].is_new = false;
  EXPECT_EQ(Schedule(state, {}).prefilled, 1u);
  state.entries[0].is_loading = true;
  EXPECT_EQ(Schedule(state, {}).prefilled, 2u);
  state.entries[1].is_loading = true;
  EXPECT_FALSE(Schedule(state, {}).prefilled.has_value());
}

TEST(SchedulerTest, DecodingGetsItsShareOfTheTime) {
  SchedulerState state = {.entries = {Decoding(1, 5), Prefilling(2, 5)},
                          .since_decode = absl::Milliseconds(29),
                          .decode_step = absl::Milliseconds(10)};
  EXPECT_TRUE(Schedule(state, {}).decoded.empty());
  EXPECT_FALSE(Schedule(state, {.decode_share = 0.5}).decoded.empty());
  state.since_decode = absl::Milliseconds(30);
  EXPECT_EQ(Schedule(state, {}).decoded, (Ids{1}));
  EXPECT_EQ(Schedule(state, {}).prefilled, 2u);
  state.since_decode = absl::ZeroDuration();
  state.entries[1].is_loading = true;
  EXPECT_EQ(Schedule(state, {}).decoded, (Ids{1})) << "there is nothing else to do";
  state.has_chunk = true;
  EXPECT_TRUE(Schedule(state, {}).decoded.empty());
  EXPECT_TRUE(Schedule(state, {}).chunk);
}

TEST(SchedulerTest, AChunkWaitsForPrefills) {
  SchedulerState state = {.entries = {Waiting(1, 5)}, .free_blocks = 5, .has_chunk = true};
  EXPECT_FALSE(Schedule(state, {}).chunk);
  state.free_blocks = 0;
  state.entries.push_back(Decoding(2, 3));
  EXPECT_TRUE(Schedule(state, {}).chunk);
}

TEST(SchedulerTest, AStepOfPriorityIsWorthSoMuchWaiting) {
  const absl::Time noon = absl::FromUnixSeconds(1000000);
  const absl::Duration step = absl::Seconds(30);
  EXPECT_LT(RankOf(0, noon, step), RankOf(0, noon + absl::Milliseconds(1), step));
  EXPECT_LT(RankOf(0, noon + absl::Seconds(29), step), RankOf(1, noon, step));
  EXPECT_GT(RankOf(0, noon + absl::Seconds(31), step), RankOf(1, noon, step));
  EXPECT_LT(RankOf(INT32_MIN, noon, step), RankOf(INT32_MAX, noon, step));
}

// A worker in which a step takes a unit of time, and nothing is computed.
class Simulation {
 public:
  struct Request {
    SchedulerEntry entry;
    double arrived = 0;
    int64_t prompt = 0;         // tokens
    int64_t answer = 0;         // tokens wanted
    int64_t generated = 0;      // so far
    int64_t in_memory = 0;      // of prompt and answer
    int64_t prefill_steps = 0;  // left
    int64_t held = 0;           // blocks
  };

  static constexpr int64_t kSlots = 64;
  static constexpr int64_t kBlocks = 200;
  static constexpr double kPriorityStep = 400;
  static constexpr int kWorstPriority = 3;

  void Run(int arrivals, uint32_t seed) {
    std::mt19937 random(seed);
    auto pick = [&](int64_t low, int64_t high) {
      return std::uniform_int_distribution<int64_t>(low, high)(random);
    };
    double next = 0;
    while (ended_ + dropped_ < arrivals) {
      for (; arrived_ < arrivals && next <= now_; ++arrived_) {
        // Bursts, with silence between them; sometimes far more than the worker can take.
        next +=
            std::exponential_distribution<double>(arrived_ / 500 % 2 == 0 ? 0.12 : 0.03)(random);
        Arrive(pick(0, 9) == 0 ? pick(1, 8000) : pick(1, 700), pick(1, 120),
               static_cast<int32_t>(pick(0, kWorstPriority)));
      }
      if (!requests_.empty() && pick(0, 40) == 0) Cancel(pick(0, 1 << 20));
      if (pick(0, 3) == 0) SetAllLoading(false);
      Turn(pick);
      ++now_;
      ASSERT_FALSE(::testing::Test::HasFailure());
    }
    EXPECT_EQ(free_, kBlocks) << "a block was lost";
    EXPECT_GT(preemptions_, 100) << "there was never too little memory";
    EXPECT_EQ(ended_ + dropped_, arrivals);
  }

 private:
  static int64_t BlocksFor(int64_t tokens) { return (tokens + kSlots - 1) / kSlots; }

  void Arrive(int64_t prompt, int64_t answer, int32_t priority) {
    Request request;
    request.entry.id = static_cast<uint64_t>(arrived_);
    request.entry.priority = priority;
    request.entry.rank = now_ + kPriorityStep * priority;
    request.arrived = now_;
    request.prompt = prompt;
    request.answer = answer;
    requests_[request.entry.id] = request;
  }

  void Cancel(int64_t number) {
    auto it = requests_.begin();
    std::advance(it, number % requests_.size());
    Free(it->second);
    requests_.erase(it);
    ++dropped_;
  }

  void SetAllLoading(bool loading) {
    for (auto& [id, request] : requests_) request.entry.is_loading = loading;
  }

  SchedulerState State() {
    SchedulerState state;
    for (auto& [id, request] : requests_) {
      SchedulerEntry& entry = request.entry;
      entry.blocks_held = request.held;
      entry.blocks = entry.stage == Stage::kWaiting ? BlocksFor(request.prompt + 1)
                     : entry.stage == Stage::kDecoding
                         ? BlocksFor(request.in_memory + 1) - request.held
                         : 0;
      state.entries.push_back(entry);
    }
    std::reverse(state.entries.begin(), state.entries.end());
    state.free_blocks = free_;
    state.since_decode = since_decode_;
    state.decode_step = absl::Seconds(1);
    return state;
  }

  void Take(int64_t blocks, Request& request) {
    free_ -= blocks;
    request.held += blocks;
    ASSERT_GE(free_, 0) << "more blocks were promised than there are";
  }
  void Free(Request& request) {
    free_ += request.held;
    request.held = 0;
  }

  template <typename Pick>
  void Turn(Pick pick) {
    const Batch batch = Schedule(State(), {.max_running = 16, .max_prefilling = 3});
    for (const uint64_t id : batch.preempted) {
      Request& request = requests_.at(id);
      ASSERT_NE(request.entry.stage, Stage::kWaiting);
      Free(request);
      request.entry.stage = Stage::kWaiting;
      request.in_memory = 0;
      ++preemptions_;
    }
    for (const uint64_t id : batch.started) Start(id);
    for (const uint64_t id : batch.decoded) Decode(id);
    if (!batch.decoded.empty()) since_decode_ = absl::ZeroDuration();
    if (batch.prefilled.has_value()) {
      Request& request = requests_.at(*batch.prefilled);
      ASSERT_EQ(request.entry.stage, Stage::kPrefilling);
      ASSERT_FALSE(request.entry.is_loading);
      request.entry.is_new = false;
      since_decode_ += absl::Seconds(1);
      if (pick(0, 9) == 0) {
        request.entry.is_loading = true;
      } else if (--request.prefill_steps <= 0) {
        request.entry.stage = Stage::kDecoding;
        request.in_memory = request.prompt;
      }
    }
    size_t running = 0;
    for (const auto& [id, request] : requests_) running += request.entry.stage != Stage::kWaiting;
    ASSERT_LE(running, 16u);
  }

  void Start(uint64_t id) {
    Request& request = requests_.at(id);
    ASSERT_EQ(request.entry.stage, Stage::kWaiting);
    for (const auto& [other, waiting] : requests_) {
      if (waiting.entry.stage != Stage::kWaiting || other == id) continue;
      ASSERT_LT(std::pair(request.entry.rank, id), std::pair(waiting.entry.rank, other))
          << "one that waits was overtaken";
      ASSERT_LE(request.arrived, waiting.arrived + kPriorityStep * kWorstPriority)
          << "a late one went before one that has waited for longer than priorities may delay it";
    }
    Take(BlocksFor(request.prompt + 1), request);
    request.entry.stage = Stage::kPrefilling;
    request.entry.is_new = true;
    request.entry.is_loading = false;
    request.prefill_steps = 1 + request.prompt / 500;
  }

  void Decode(uint64_t id) {
    Request& request = requests_.at(id);
    ASSERT_EQ(request.entry.stage, Stage::kDecoding);
    Take(BlocksFor(request.in_memory + 1) - request.held, request);
    ++request.in_memory;
    // What was generated before a preemption is computed again, then it goes on.
    request.generated = std::max(request.generated, request.in_memory - request.prompt);
    if (request.generated < request.answer) return;
    Free(request);
    requests_.erase(id);
    ++ended_;
  }

  double now_ = 0;
  int arrived_ = 0, ended_ = 0, dropped_ = 0;
  int64_t free_ = kBlocks;
  int64_t preemptions_ = 0;
  absl::Duration since_decode_;
  std::map<uint64_t, Request> requests_;
};

TEST(SchedulerTest, AHundredThousandRequestsAllEndNoneIsOvertakenAndNoBlockIsLost) {
  for (const uint32_t seed : {1u, 2u}) {
    Simulation simulation;
    simulation.Run(50000, seed);
  }
}

}  // namespace
}  // namespace tessera
