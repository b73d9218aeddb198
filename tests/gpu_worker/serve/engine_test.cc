// In which order work runs, and that it stops when nobody wants it any more.
#include "gpu_worker/serve/engine.h"

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/forwarding_client.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

// What happened, in order, by several threads.
class Diary {
 public:
  void Write(const std::string& line) {
    absl::MutexLock lock(&mutex_);
    lines_.push_back(line);
  }
  std::vector<std::string> WaitFor(size_t count) {
    absl::MutexLock lock(&mutex_);
    auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return lines_.size() >= count; };
    mutex_.Await(absl::Condition(&enough));
    return lines_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
};

// Writes down that it started, or how it failed and how many tokens its answers had then; does what
// a test wants on the way.
class Listener final : public GenerationListener {
 public:
  Listener(std::string name, Diary* diary) : name_(std::move(name)), diary_(*diary) {}

  void OnPromptLogprobs(const std::vector<PromptLogprob>& positions) override {
    prompt_positions += positions.size();
    if (on_prompt) on_prompt();
  }
  void OnStarted(const Prefilled&, absl::Duration, absl::Duration) override {
    diary_.Write(name_);
    if (on_started) on_started();
  }
  void OnToken(uint32_t index, const SampledToken& token) override {
    if (on_id) on_id(token.id);
    if (tokens.size() <= index) tokens.resize(index + 1);
    ++tokens[index];
    if (on_token) on_token();
  }
  void OnAnswered(uint32_t, bool, int64_t) override {}
  void OnFinished(const absl::Status& status) override {
    if (!status.ok()) {
      diary_.Write(absl::StrCat(name_, " ", absl::StatusCodeToString(status.code()), " after ",
                                absl::StrJoin(tokens, "+")));
    }
    if (on_ended) on_ended();
  }

  std::function<void()> on_prompt, on_started, on_token, on_ended;
  std::function<void(uint32_t id)> on_id;
  size_t prompt_positions = 0;
  std::vector<int> tokens;  // of each answer

 private:
  const std::string name_;
  Diary& diary_;
};

// A cache whose word about what is missing can be waited for, and held back.
class HeldClient final : public ForwardingClient {
 public:
  using ForwardingClient::ForwardingClient;
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys,
                                const CallOptions& options) override {
    if (!asked.HasBeenNotified()) asked.Notify();
    go_on.WaitForNotification();
    return ForwardingClient::FindMissing(keys, options);
  }

  absl::Notification asked, go_on;
};

class EngineTest : public TinyBlendTest {
 protected:
  void SetUp() override {
    TinyBlendTest::SetUp();
    held_ = std::make_unique<HeldClient>(client_.get());
    behind_held_ = std::make_unique<TinyWorker>(held_.get());
    writer_ = std::make_unique<ChunkWriter>(held_.get(), 16, 1 << 24);
    Start(/*capacity=*/16);
  }
  void TearDown() override {
    engine_.reset();
    writer_.reset();
  }

  void Start(size_t capacity) { Start(EngineOptions{.queue = capacity}); }
  void Start(const EngineOptions& options) {
    engine_.reset();
    engine_ = std::make_unique<Engine>(behind_held_->decoder.get(), behind_held_->blender.get(),
                                       writer_.get(), options);
  }

  std::unique_ptr<Generation> Make(const std::string& name, int32_t priority = 0,
                                   int64_t max_new_tokens = 2) {
    auto generation = std::make_unique<Generation>();
    generation->prompt = TinyRequest({suffix_});
    generation->prompt.max_new_tokens = max_new_tokens;
    generation->priority = priority;
    generation->cancelled = std::make_shared<CancelFlag>();
    auto listener = std::make_unique<Listener>(name, &diary_);
    last_ = listener.get();
    generation->listener = std::move(listener);
    return generation;
  }

  std::unique_ptr<ChunkWork> MakeChunk(const std::string& name, std::vector<uint32_t> tokens) {
    auto work = std::make_unique<ChunkWork>();
    work->tokens = std::move(tokens);
    work->cancelled = std::make_shared<CancelFlag>();
    work->done = [this, name](const absl::StatusOr<ChunkReport>& report) {
      diary_.Write(report.ok()
                       ? name
                       : absl::StrCat(name, " ", absl::StatusCodeToString(report.status().code())));
    };
    return work;
  }

  // Keeps the engine busy until go_on_.
  void Occupy() {
    auto generation = Make("first");
    last_->on_started = [this] { go_on_.WaitForNotification(); };
    ASSERT_TRUE(engine_->Submit(std::move(generation)).ok());
    diary_.WaitFor(1);
  }

  absl::Notification go_on_;
  Diary diary_;
  Listener* last_ = nullptr;  // of the newest generation
  std::unique_ptr<HeldClient> held_;
  std::unique_ptr<TinyWorker> behind_held_;
  std::unique_ptr<ChunkWriter> writer_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, LowestPriorityFirstThenFirstComeAndChunksLast) {
  held_->go_on.Notify();
  Occupy();
  ASSERT_TRUE(engine_->Submit(MakeChunk("chunk", a_)).ok());
  for (const auto& [name, priority] :
       std::vector<std::pair<std::string, int32_t>>{{"5a", 5},
                                                    {"0a", 0},
                                                    {"-3", -3},
                                                    {"5b", 5},
                                                    {"0b", 0},
                                                    {"max", INT32_MAX},
                                                    {"min", INT32_MIN}}) {
    ASSERT_TRUE(engine_->Submit(Make(name, priority)).ok());
  }
  go_on_.Notify();
  EXPECT_EQ(diary_.WaitFor(9), (std::vector<std::string>{"first", "min", "-3", "0a", "0b", "5a",
                                                         "5b", "max", "chunk"}));
}

TEST_F(EngineTest, EachKindHasItsOwnBound) {
  held_->go_on.Notify();
  Start(/*capacity=*/1);
  Occupy();
  for (size_t i = 0; i < Engine::kMostChunks; ++i) {
    ASSERT_TRUE(engine_->Submit(MakeChunk("chunk", {5, 6, 7})).ok());
  }
  EXPECT_EQ(engine_->Submit(MakeChunk("one too many", a_)).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(engine_->Submit(Make("second")).ok()) << "a full ingest leaves room for questions";
  EXPECT_EQ(engine_->Submit(Make("third")).code(), absl::StatusCode::kResourceExhausted);
  go_on_.Notify();
}

TEST_F(EngineTest, AQuestionGoesBetweenThePiecesOfAChunk) {
  ASSERT_TRUE(engine_->Submit(MakeChunk("chunk", TinyTokens(3, 400))).ok());
  held_->asked.WaitForNotification();  // the chunk is under way, and nothing of it computed
  ASSERT_TRUE(engine_->Submit(Make("question")).ok());
  held_->go_on.Notify();
  EXPECT_EQ(diary_.WaitFor(2), (std::vector<std::string>{"question", "chunk"}));
}

TEST_F(EngineTest, CancellingInTheMiddleOfAnAnswerStopsWithinOneStep) {
  auto generation = Make("answers", 0, /*max_new_tokens=*/10);
  generation->answers = 5;
  Listener* const listener = last_;
  listener->on_token = [listener, flag = generation->cancelled] {
    if (listener->tokens.size() == 5 && listener->tokens[2] == 4) flag->Set();
  };
  ASSERT_TRUE(engine_->Submit(std::move(generation)).ok());
  EXPECT_EQ(diary_.WaitFor(2)[1], "answers CANCELLED after 4+4+4+3+3");
}

TEST_F(EngineTest, CancellingInTheMiddleOfPromptLogprobsStops) {
  auto generation = Make("scored");
  generation->prompt = TinyRequest({TinyTokens(1, 500)});
  generation->prompt_logprobs = 1;
  Listener* const listener = last_;
  listener->on_prompt = [listener, flag = generation->cancelled] {
    EXPECT_LE(listener->prompt_positions, 65u);  // one block, and the first token
    if (listener->prompt_positions > 1) flag->Set();
  };
  ASSERT_TRUE(engine_->Submit(std::move(generation)).ok());
  EXPECT_EQ(diary_.WaitFor(1)[0], "scored CANCELLED after ");
}

TEST_F(EngineTest, ACancelledChunkIsNotComputed) {
  auto work = MakeChunk("chunk", TinyTokens(3, 400));
  const std::shared_ptr<CancelFlag> flag = work->cancelled;
  ASSERT_TRUE(engine_->Submit(std::move(work)).ok());
  held_->asked.WaitForNotification();
  flag->Set();
  held_->go_on.Notify();
  EXPECT_EQ(diary_.WaitFor(1)[0], "chunk CANCELLED");
  TearDown();
  EXPECT_EQ(entries(), 0u);
}

TEST_F(EngineTest, EverybodyHearsOfTheEnd) {
  held_->go_on.Notify();
  absl::Notification started, stopping;
  auto running = Make("running", 0, /*max_new_tokens=*/400);
  last_->on_started = [&] {
    started.Notify();
    go_on_.WaitForNotification();
  };
  const std::shared_ptr<CancelFlag> flag = running->cancelled;
  const CancelFlag::Hook on_stopping(*flag, [&] { stopping.Notify(); });
  ASSERT_TRUE(engine_->Submit(std::move(running)).ok());
  started.WaitForNotification();
  ASSERT_TRUE(engine_->Submit(Make("waiting")).ok());
  ASSERT_TRUE(engine_->Submit(MakeChunk("chunk", a_)).ok());
  std::thread ending([&] { engine_.reset(); });
  stopping.WaitForNotification();
  go_on_.Notify();
  ending.join();
  EXPECT_EQ(diary_.WaitFor(4),
            (std::vector<std::string>{"running", "running UNAVAILABLE after ",
                                      "waiting UNAVAILABLE after ", "chunk UNAVAILABLE"}));
}

TEST_F(EngineTest, ARequestJoinsThoseThatRun) {
  held_->go_on.Notify();
  int tokens = 0, before = 0, at_start = 0;  // of the first
  auto first = Make("first", 0, /*max_new_tokens=*/200);
  Listener* const one = last_;
  auto second = Make("second");
  second->prompt = TinyRequest({TinyTokens(1, 400)});
  last_->on_started = [&] { at_start = tokens; };
  one->on_token = [&] {
    ++tokens;
    if (second == nullptr) return;
    before = tokens;
    ASSERT_TRUE(engine_->Submit(std::move(second)).ok());
  };
  absl::Notification ended;
  one->on_ended = [&] { ended.Notify(); };
  ASSERT_TRUE(engine_->Submit(std::move(first)).ok());
  ended.WaitForNotification();
  EXPECT_EQ(diary_.WaitFor(2), (std::vector<std::string>{"first", "second"}));
  EXPECT_EQ(before, 1);
  EXPECT_GT(at_start, before) << "it goes on between the layers of the other's prefill";
  EXPECT_LT(at_start, 200);
  EXPECT_EQ(tokens, 200);
}

TEST_F(EngineTest, NoMoreRunThanMemoryOrOptionsAllow) {
  held_->go_on.Notify();
  // The smallest memory holds one request of 512 tokens.
  for (const EngineOptions& options :
       {EngineOptions{.scheduler = {.max_running = 1}}, EngineOptions{.kv_tokens = 1}}) {
    Start(options);
    int tokens = 0, at_start = 0;  // of the first
    auto first = Make("first", 0, /*max_new_tokens=*/50);
    first->prompt.segments = {TinyTokens(1, 400)};
    Listener* const one = last_;
    auto second = Make("second", 0, /*max_new_tokens=*/50);
    second->prompt.segments = {TinyTokens(2, 400)};
    last_->on_started = [&] { at_start = tokens; };
    absl::Notification ended;
    last_->on_ended = [&] { ended.Notify(); };
    one->on_token = [&] { ++tokens; };
    one->on_started = [&] { ASSERT_TRUE(engine_->Submit(std::move(second)).ok()); };
    ASSERT_TRUE(engine_->Submit(std::move(first)).ok());
    ended.WaitForNotification();
    EXPECT_EQ(at_start, 50) << "the second began before the first had ended";
  }
}

TEST_F(EngineTest, WhenBlocksRunOutTheLastIsPreemptedAndGetsTheSameTokens) {
  held_->go_on.Notify();
  auto run = [&](const std::string& name, uint32_t seed, std::vector<uint32_t>* ids,
                 absl::BlockingCounter* ended) {
    auto generation = Make(name, 0, /*max_new_tokens=*/200);
    generation->prompt.segments = {TinyTokens(seed, 120)};
    last_->on_id = [ids](uint32_t id) { ids->push_back(id); };
    last_->on_ended = [ended] { ended->DecrementCount(); };
    return generation;
  };
  std::vector<uint32_t> alone[3], together[3];
  for (uint32_t i = 0; i < 3; ++i) {
    absl::BlockingCounter ended(1);
    ASSERT_TRUE(engine_->Submit(run("alone", i, &alone[i], &ended)).ok());
    ended.Wait();
  }
  Start(EngineOptions{.kv_tokens = 1});  // 9 blocks; the three take 6 at first and 15 at the end
  absl::BlockingCounter ended(3);
  for (uint32_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(engine_->Submit(run("together", i, &together[i], &ended)).ok());
  }
  ended.Wait();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(together[i].size(), 200u);
    EXPECT_EQ(together[i], alone[i]) << i;
  }
  EXPECT_GT(engine_->stats().preemptions, 0u);
  EXPECT_EQ(diary_.WaitFor(6).size(), 6u) << "each was started once, as its client sees it";
}

// The cost model changes its mind between the two prefills of those that were preempted.
TEST_F(EngineTest, APreemptedRequestIsPrefilledAsItWasBefore) {
  held_->go_on.Notify();
  CostModel blends({.row = 1e-6, .pair = 1, .layers = 3}), fills({.scored_pair = 1, .layers = 3});
  Blender& blender = *behind_held_->blender;
  auto run = [&](uint32_t seed, std::vector<uint32_t>* ids, absl::BlockingCounter* ended) {
    auto generation = Make("one", 0, /*max_new_tokens=*/200);
    generation->prompt =
        TinyRequest({lead_, TinyTokens(seed, 60), TinyTokens(seed + 9, 40), suffix_}, "query_v", 0);
    generation->prompt.max_new_tokens = 200;
    generation->prompt.choose = true;
    last_->on_id = [ids](uint32_t id) { ids->push_back(id); };
    last_->on_ended = [ended] { ended->DecrementCount(); };
    return generation;
  };
  std::vector<uint32_t> blended[3], filled[3], together[3];
  for (uint32_t i = 0; i < 3; ++i) {
    for (CostModel* costs : {&blends, &fills}) {
      Start(/*capacity=*/16);
      blender.set_costs(costs);
      absl::BlockingCounter ended(1);
      std::vector<uint32_t>* ids = costs == &blends ? &blended[i] : &filled[i];
      ASSERT_TRUE(engine_->Submit(run(i, ids, &ended)).ok());
      ended.Wait();
    }
    EXPECT_NE(blended[i], filled[i]) << "it makes a difference here";
  }
  Start(EngineOptions{.kv_tokens = 1});  // 9 blocks; the three take 6 at first and 15 at the end
  blender.set_costs(&blends);
  absl::BlockingCounter ended(3);
  for (uint32_t i = 0; i < 3; ++i) {
    auto generation = run(i, &together[i], &ended);
    if (i == 2) last_->on_started = [&] { blender.set_costs(&fills); };
    ASSERT_TRUE(engine_->Submit(std::move(generation)).ok());
  }
  ended.Wait();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(together[i], blended[i]) << i;
  EXPECT_GT(engine_->stats().preemptions, 0u);
  engine_.reset();
  blender.set_costs(nullptr);
}

TEST_F(EngineTest, ManyAnswersAndNoRoomForAllOfThem) {
  held_->go_on.Notify();
  for (const int64_t kv_tokens : {0, 1}) {
    Start(EngineOptions{.kv_tokens = kv_tokens});
    auto generation = Make("answers", 0, /*max_new_tokens=*/100);
    generation->prompt.segments = {TinyTokens(1, 300)};
    generation->answers = 20;
    absl::Notification ended;
    std::vector<int> tokens;
    last_->on_ended = [&, listener = last_] {
      tokens = listener->tokens;
      ended.Notify();
    };
    ASSERT_TRUE(engine_->Submit(std::move(generation)).ok());
    ended.WaitForNotification();
    EXPECT_EQ(tokens, std::vector<int>(20, 100));
  }
}

TEST_F(EngineTest, NothingIsHeldWhenAllHaveEnded) {
  held_->go_on.Notify();
  Start(/*capacity=*/40);
  absl::BlockingCounter ended(30);
  for (int i = 0; i < 30; ++i) {
    auto generation = Make("one", i % 3, /*max_new_tokens=*/1 + i * 7 % 60);
    generation->prompt = TinyRequest({lead_, i % 2 == 0 ? a_ : b_, TinyTokens(i, 20 + i)});
    generation->prompt.max_new_tokens = 1 + i * 7 % 60;
    generation->answers = 1 + i % 4;
    Listener* const listener = last_;
    if (i % 5 == 0) {
      last_->on_token = [listener, flag = generation->cancelled] {
        if (listener->tokens[0] == 5) flag->Set();
      };
    }
    if (i % 5 == 1) generation->cancelled->Set();
    last_->on_ended = [&] { ended.DecrementCount(); };
    ASSERT_TRUE(engine_->Submit(std::move(generation)).ok());
  }
  ended.Wait();
  // The listeners hear of it just before the blocks are given back.
  while (engine_->stats().running > 0) std::this_thread::yield();
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.free_blocks + stats.idle_blocks, stats.kv_blocks);
  EXPECT_EQ(stats.waiting, 0u);
}

TEST_F(EngineTest, APrefixStaysUnlessItsRequestMayStoreNothing) {
  BlendConfig config = TinyWorker::SmallPieces();
  config.tokens_per_piece = KvPool::kBlockSlots;
  TinyWorker worker(client_.get(), config);
  Engine engine(worker.decoder.get(), worker.blender.get(), writer_.get(), EngineOptions());
  for (const bool store : {false, true}) {
    auto generation = Make("one");
    generation->prompt = TinyRequest({TinyTokens(1, 200)});
    generation->prompt.prefixes = true;
    generation->prompt.store = store;
    absl::Notification ended;
    last_->on_ended = [&] { ended.Notify(); };
    ASSERT_TRUE(engine.Submit(std::move(generation)).ok());
    ended.WaitForNotification();
    while (engine.stats().running > 0) std::this_thread::yield();
    EXPECT_EQ(engine.stats().idle_blocks, store ? 3 : 0);
  }
}

}  // namespace
}  // namespace tessera
