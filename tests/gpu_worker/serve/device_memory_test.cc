// A device that has no memory left for one request serves the others.
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gpu_worker/serve/engine.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/blend/tiny_blend.h"
#include "tests/gpu_worker/far_device.h"

namespace tessera {
namespace {

class Ending final : public GenerationListener {
 public:
  Ending(absl::Status* status, absl::Notification* ended, std::function<void()> on_token)
      : status_(*status), ended_(*ended), on_token_(std::move(on_token)) {}
  void OnPromptLogprobs(const std::vector<PromptLogprob>&) override {}
  void OnStarted(const Prefilled&, absl::Duration, absl::Duration) override {}
  void OnToken(uint32_t, const SampledToken&) override { on_token_(); }
  void OnAnswered(uint32_t, bool, int64_t) override {}
  void OnFinished(const absl::Status& status) override {
    status_ = status;
    ended_.Notify();
  }

 private:
  absl::Status& status_;
  absl::Notification& ended_;
  const std::function<void()> on_token_;
};

TEST(DeviceMemoryTest, ARequestThatFindsNoneEndsAndTheNextIsServed) {
  FarMemory memory;
  {
    FarOps ops(&memory);
    const std::unique_ptr<Decoder> decoder = TinyWorker::LoadTiny(&ops);
    const std::unique_ptr<CacheClient> client = MakeNullCacheClient();
    Blender blender(decoder.get(), client.get(), ChunkKey(), TinyWorker::SmallPieces());
    ChunkWriter writer(client.get(), 16, 1 << 20);
    Engine engine(decoder.get(), &blender, &writer, EngineOptions{});
    auto end_of = [&](
                      int tokens, std::function<void()> on_token = [] {}) {
      absl::Status status;
      absl::Notification ended;
      auto generation = std::make_unique<Generation>();
      generation->prompt = TinyRequest({TinyTokens(1, tokens)});
      generation->prompt.max_new_tokens = 2;
      generation->cancelled = std::make_shared<CancelFlag>();
      generation->listener = std::make_unique<Ending>(&status, &ended, std::move(on_token));
      EXPECT_TRUE(engine.Submit(std::move(generation)).ok());
      ended.WaitForNotification();
      return status;
    };
    ASSERT_TRUE(end_of(100).ok());
    // Room for the rows of 20 tokens' widest matrix, not for those of 100.
    const ModelConfig& model = decoder->config();
    memory.set_largest(40 * 2 * model.intermediate * sizeof(float));
    const absl::Status status = end_of(100);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_TRUE(end_of(20).ok());
    memory.set_largest(std::numeric_limits<size_t>::max());
    EXPECT_TRUE(end_of(100).ok());
    // None is left once the prompt is done: its decode steps find none.
    EXPECT_EQ(end_of(20, [&] { memory.set_largest(1); }).code(),
              absl::StatusCode::kResourceExhausted);
    memory.set_largest(std::numeric_limits<size_t>::max());
    EXPECT_TRUE(end_of(20).ok());
  }
}

}  // namespace
}  // namespace tessera
