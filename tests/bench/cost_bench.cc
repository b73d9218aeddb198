// What the cost model predicts, from what it measures at start alone, beside what prefills really
// take: prompts of several shapes, in full, cold and with resident chunks. No cache server.
// Ends with a line of JSON: the ratios of actual to predicted, lowest and highest, and how many
// choices were right.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/time/clock.h"
#include "base/cancel_flag.h"
#include "base/process.h"
#include "cache_server/client/cache_client.h"
#include "glog/logging.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/cost_measure.h"
#include "gpu_worker/blend/prompt_cost.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"

ABSL_FLAG(std::string, model, "", "Hugging Face folder (required)");
ABSL_FLAG(int, threads, 0, "threads that compute; 0: one per core");
ABSL_FLAG(int, longest, 8192, "tokens of the longest prompt");
ABSL_FLAG(double, ratio, 0.15, "recompute ratio");

namespace tessera {
namespace {

struct Shape {
  int chunks;
  int chunk_tokens;
  int suffix;
};
constexpr Shape kShapes[] = {{1, 20, 40},  {1, 100, 16}, {4, 120, 32}, {2, 500, 200},
                             {8, 245, 32}, {3, 900, 64}, {16, 245, 32}};
constexpr const char* kPolicies[] = {"query_v", "hkvd_v", "first_k"};

class Bench {
 public:
  Bench()
      : ops_(MakeCpuOps(absl::GetFlag(FLAGS_threads))),
        client_(MakeNullCacheClient()),
        pool_(int64_t{4} << 30) {
    auto decoder = Decoder::Load(absl::GetFlag(FLAGS_model), 0, ops_.get());
    CHECK(decoder.ok()) << decoder.status();
    decoder_ = std::move(*decoder);
    const absl::Time start = absl::Now();
    costs_ = std::make_unique<CostModel>(MeasureCosts(*decoder_));
    std::printf("measured in %.2f s: %.0f tokens/s\n", absl::ToDoubleSeconds(absl::Now() - start),
                1 / costs_->coefficients().row);
    blender_ =
        std::make_unique<Blender>(decoder_.get(), client_.get(), ChunkKey(), config_, &pool_);
  }

  bool Fits(const Shape& shape) const {
    const int64_t tokens = 24 + shape.chunks * shape.chunk_tokens + shape.suffix;
    return tokens <= std::min<int64_t>(absl::GetFlag(FLAGS_longest), decoder_->max_len());
  }

  void Run(const Shape& shape) {
    BlendRequest request = Request(shape);
    request.exact = request.prefixes = true;
    const double full = Time(request, "full");
    request.exact = false;
    bool first = true;
    for (const char* policy : kPolicies) {
      request.policy = *SelectionPolicy::Parse(policy);
      request.correction = request.policy.corrects_by_default();
      if (first) Choice(Time(request, "cold"), full);
      first = false;
      Choice(Time(request, "warm"), full);
    }
  }

  void Report() const {
    std::printf(
        "{\"bench\": \"cost\", \"device\": \"%s\", \"prefills\": %d, \"lowest\": %.2f, "
        "\"highest\": %.2f, \"choices\": %d, \"right\": %d, \"lost_s\": %.3f}\n",
        ops_->name().c_str(), prefills_, lowest_, highest_, choices_, right_, lost_);
  }

 private:
  BlendRequest Request(const Shape& shape) {
    BlendRequest request;
    request.segments.push_back(Tokens(24));
    for (int i = 0; i < shape.chunks; ++i) request.segments.push_back(Tokens(shape.chunk_tokens));
    request.segments.push_back(Tokens(shape.suffix));
    request.recompute_ratio = absl::GetFlag(FLAGS_ratio);
    return request;
  }

  // Never the same ones again.
  std::vector<uint32_t> Tokens(int count) {
    std::vector<uint32_t> ids;
    for (int i = 0; i < count; ++i) {
      seed_ = seed_ * 6364136223846793005ull + 1442695040888963407ull;
      ids.push_back(static_cast<uint32_t>((seed_ >> 33) % decoder_->config().vocab));
    }
    return ids;
  }

  double Time(const BlendRequest& request, const char* way) {
    const absl::Time start = absl::Now();
    auto done = blender_->Prefill(request, never_);
    CHECK(done.ok()) << done.status();
    const double actual = absl::ToDoubleSeconds(absl::Now() - start);
    const PromptShape shape = ShapeOf(request, config_, decoder_->config(), *done);
    const double predicted = costs_->Predict(shape, done->blended).seconds;
    const double ratio = actual / predicted;
    lowest_ = std::min(lowest_, ratio);
    highest_ = std::max(highest_, ratio);
    ++prefills_;
    std::printf(
        "%5d tokens, %2d chunks, suffix %3d, %s %-8s predicted %7.3f s, actual %7.3f s: %.2f\n",
        static_cast<int>(request.Tokens()), static_cast<int>(request.segments.size()) - 2,
        static_cast<int>(request.segments.back().size()), way,
        done->blended ? request.policy.name().c_str() : "", predicted, actual, ratio);
    std::fflush(stdout);
    last_shape_ = shape;
    return actual;
  }

  // Of the shape that was timed last.
  void Choice(double blend, double full) {
    PromptShape shape = last_shape_;
    shape.store = false;  // the mere time counts here
    const bool blends = costs_->Choose(shape).blend;
    ++choices_;
    right_ += blends == (blend <= full);
    lost_ += std::max(0.0, blends ? blend - full : full - blend);
  }

  const CancelFlag never_;
  const BlendConfig config_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<CacheClient> client_;
  ChunkPool pool_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<CostModel> costs_;
  std::unique_ptr<Blender> blender_;
  uint64_t seed_ = 1;
  PromptShape last_shape_;
  int prefills_ = 0, choices_ = 0, right_ = 0;
  double lowest_ = std::numeric_limits<double>::infinity(), highest_ = 0, lost_ = 0;
};

void Main() {
  Bench bench;
  for (const Shape& shape : kShapes) {
    if (bench.Fits(shape)) bench.Run(shape);
  }
  bench.Report();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  tessera::Main();
  return 0;
}
