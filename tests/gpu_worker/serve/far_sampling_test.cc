// Requests of all kinds at a time on a device with memory of its own: the tokens that the CPU's
// memory gives.
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "gpu_worker/serve/engine.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/blend/tiny_blend.h"
#include "tests/gpu_worker/far_device.h"

namespace tessera {
namespace {

struct Answer {
  std::vector<SampledToken> tokens;
  absl::Status status;
};

class Collector final : public GenerationListener {
 public:
  Collector(Answer* answer, absl::BlockingCounter* running)
      : answer_(*answer), running_(*running) {}
  void OnPromptLogprobs(const std::vector<PromptLogprob>&) override {}
  void OnStarted(const Prefilled&, absl::Duration, absl::Duration) override {}
  void OnToken(uint32_t, const SampledToken& token) override { answer_.tokens.push_back(token); }
  void OnAnswered(uint32_t, bool, int64_t) override {}
  void OnFinished(const absl::Status& status) override {
    answer_.status = status;
    running_.DecrementCount();
  }

 private:
  Answer& answer_;
  absl::BlockingCounter& running_;
};

std::vector<SamplingParams> Kinds() {
  return {{.top_logprobs = 3},
          {.temperature = 1, .seed = 1},
          {.temperature = 0.5f, .top_p = 0.8f, .seed = 2},
          {.temperature = 2, .top_k = 7, .top_logprobs = 2, .seed = 3},
          {.temperature = 1, .frequency_penalty = 1, .seed = 4},
          {.min_tokens = 9, .masked_tokens = {1, 2}}};
}

std::vector<Answer> AnswersOn(Ops* ops) {
  const std::unique_ptr<Decoder> decoder = TinyWorker::LoadTiny(ops);
  const std::unique_ptr<CacheClient> client = MakeNullCacheClient();
  Blender blender(decoder.get(), client.get(), ChunkKey(), TinyWorker::SmallPieces());
  ChunkWriter writer(client.get(), 16, 1 << 20);
  const std::vector<SamplingParams> kinds = Kinds();
  std::vector<Answer> answers(kinds.size());
  absl::BlockingCounter running(static_cast<int>(kinds.size()));
  Engine engine(decoder.get(), &blender, &writer, EngineOptions{});
  for (size_t i = 0; i < kinds.size(); ++i) {
    auto generation = std::make_unique<Generation>();
    generation->prompt = TinyRequest({TinyTokens(static_cast<uint32_t>(i), 10)});
    generation->prompt.max_new_tokens = 30;
    generation->sampling = kinds[i];
    generation->cancelled = std::make_shared<CancelFlag>();
    generation->listener = std::make_unique<Collector>(&answers[i], &running);
    EXPECT_TRUE(engine.Submit(std::move(generation)).ok());
  }
  running.Wait();
  return answers;
}

TEST(FarSamplingTest, TokensAreThoseOfTheCpu) {
  const std::unique_ptr<Ops> cpu = MakeCpuOps(2);
  FarMemory memory;
  std::vector<Answer> far;
  {
    FarOps ops(&memory);
    far = AnswersOn(&ops);
  }
  const std::vector<Answer> near = AnswersOn(cpu.get());
  for (size_t i = 0; i < near.size(); ++i) {
    ASSERT_TRUE(near[i].status.ok() && far[i].status.ok()) << far[i].status;
    ASSERT_EQ(far[i].tokens.size(), near[i].tokens.size());
    ASSERT_EQ(near[i].tokens.size(), 30u);
    for (size_t t = 0; t < near[i].tokens.size(); ++t) {
      const SampledToken &got = far[i].tokens[t], &want = near[i].tokens[t];
      EXPECT_EQ(got.id, want.id) << "request " << i << " token " << t;
      EXPECT_NEAR(got.logprob, want.logprob, 1e-5);
      ASSERT_EQ(got.top.size(), want.top.size());
      for (size_t k = 0; k < want.top.size(); ++k) EXPECT_EQ(got.top[k].id, want.top[k].id);
    }
  }
}

}  // namespace
}  // namespace tessera
