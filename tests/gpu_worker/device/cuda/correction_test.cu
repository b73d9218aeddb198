// The correction on the GPU against a plain double-precision one from the same bf16 inputs.
//   correction_test          checks
//   correction_test --time   medians beside the floor of bytes
#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/correction.h"
#include "tests/gpu_worker/device/cuda/correction_case.cuh"

namespace tessera::cuda {
namespace {

bool HasGpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

// Device memory with a copy of host numbers.
template <typename T>
class OnGpu {
 public:
  explicit OnGpu(int64_t count) : count_(count) {
    CUDA_OR_DIE("test", cudaMalloc(&data_, std::max<int64_t>(1, count) * sizeof(T)));
    CUDA_OR_DIE("test", cudaMemset(data_, 0xff, std::max<int64_t>(1, count) * sizeof(T)));
  }
  explicit OnGpu(const std::vector<T>& from) : OnGpu(static_cast<int64_t>(from.size())) {
    Set(from);
  }
  ~OnGpu() { cudaFree(data_); }
  OnGpu(const OnGpu&) = delete;

  void Set(const std::vector<T>& from) {
    CUDA_OR_DIE("test",
                cudaMemcpy(data_, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> Get() const {
    std::vector<T> to(count_);
    CUDA_OR_DIE("test", cudaMemcpy(to.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return to;
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  int64_t count_;
};

// A case's inputs on the device, and the correction over them.
class Trial {
 public:
  explicit Trial(const Inputs& in)
      : in_(in),
        table_(in.table),
        cos_(in.cos),
        sin_(in.sin),
        correction_({in.c.layers, in.c.kv_heads, in.c.head_dim, {}}, Chunks()),
        results_(correction_.result_bytes()),
        workspace_(correction_.workspace_bytes(in.c.layers_at_once)) {
    CUDA_OR_DIE("test", cudaMallocHost(&staging_, correction_.staging_bytes() + 1));
    for (int layer = 0; layer < in.c.layers; ++layer) {
      fresh_.emplace_back(new OnGpu<__nv_bfloat16>(in.fresh_k[layer]));
      fresh_.emplace_back(new OnGpu<__nv_bfloat16>(in.fresh_v[layer]));
      kv_.emplace_back(new OnGpu<__nv_bfloat16>(in.kv_k[layer]));
      kv_.emplace_back(new OnGpu<__nv_bfloat16>(in.kv_v[layer]));
    }
    correction_.Stage({results_.data(), workspace_.data(), staging_, in.c.layers_at_once}, nullptr);
  }
  ~Trial() { cudaFreeHost(staging_); }

  void Prepare(cudaStream_t stream = nullptr) {
    correction_.Prepare(0, in_.c.layers, slices_.data(), stream);
  }
  void PrepareLayer(int layer) {
    correction_.Prepare(layer, 1, slices_.data() + layer * correction_.pieces(), nullptr);
  }
  void Apply(int layer, cudaStream_t stream = nullptr) {
    const int width = in_.c.width();
    const Bf16Rows k = {fresh_[2 * layer]->data(), in_.fresh_rows, width, in_.stride};
    const Bf16Rows v = {fresh_[2 * layer + 1]->data(), in_.fresh_rows, width, in_.stride};
    const Rope rope = {cos_.data(), sin_.data(), in_.c.head_dim / 2};
    const KvView kv = {kv_[2 * layer]->data(),
                       kv_[2 * layer + 1]->data(),
                       in_.c.with_blocks ? table_.data() : nullptr,
                       in_.blocks * 64,
                       in_.c.kv_heads,
                       in_.c.head_dim};
    correction_.Apply(layer, k, v, rope, kv, stream);
  }
  Bf16Vector K(int layer) const { return kv_[2 * layer]->Get(); }
  Bf16Vector V(int layer) const { return kv_[2 * layer + 1]->Get(); }
  Correction& correction() { return correction_; }

 private:
  std::vector<CorrectionChunk> Chunks() {
    std::vector<CorrectionChunk> chunks;
    slices_.clear();
    for (size_t i = 0; i < in_.chunks.size(); ++i) {
      const ChunkValues& values = in_.chunks[i];
      rows_.emplace_back(new OnGpu<int32_t>(values.picked));
      rows_.emplace_back(new OnGpu<int32_t>(values.fresh_rows));
      chunks.push_back({values.first_position, in_.c.chunks[i].pieces,
                        static_cast<int32_t>(values.picked.size()), rows_[2 * i]->data(),
                        rows_[2 * i + 1]->data()});
    }
    for (int layer = 0; layer < in_.c.layers; ++layer) {
      for (size_t i = 0; i < in_.chunks.size(); ++i) AddPieces(layer, i);
    }
    return chunks;
  }

  void AddPieces(int layer, size_t chunk) {
    const int64_t width = in_.c.width();
    int64_t row = 0;
    for (int32_t tokens : in_.c.chunks[chunk].pieces) {
      Bf16Vector k, v;
      for (int32_t t = 0; t < tokens; ++t, ++row) {
        const auto from = in_.chunks[chunk].cached[layer].begin() + row * 2 * width;
        k.insert(k.end(), from, from + width);
        v.insert(v.end(), from + width, from + 2 * width);
      }
      cached_.emplace_back(new OnGpu<__nv_bfloat16>(k));
      cached_.emplace_back(new OnGpu<__nv_bfloat16>(v));
      slices_.push_back({cached_[cached_.size() - 2]->data(), cached_.back()->data(), tokens, -1});
    }
  }

  const Inputs& in_;
  std::vector<std::unique_ptr<OnGpu<int32_t>>> rows_;
  std::vector<std::unique_ptr<OnGpu<__nv_bfloat16>>> cached_, fresh_, kv_;
  std::vector<Slice> slices_;
  OnGpu<int32_t> table_;
  OnGpu<float> cos_, sin_;
  Correction correction_;
  OnGpu<unsigned char> results_, workspace_;
  void* staging_ = nullptr;
};

void Check(const Case& c, double bound) {
  const Inputs in(c, 1234 + c.width());
  Trial run(in);
  run.Prepare();
  for (int layer = 0; layer < c.layers; ++layer) run.Apply(layer);
  CUDA_OR_DIE("test", cudaDeviceSynchronize());
  for (int layer = 0; layer < c.layers; ++layer) {
    const double error = RelativeError(in, layer, run.K(layer), run.V(layer));
    std::printf("  layer %d: relative error %.2e\n", layer, error);
    EXPECT_GE(error, 0) << "a slot of no chunk was written";
    EXPECT_LE(error, bound);
    EXPECT_FALSE(std::isnan(error));
  }
}

// The KV memory is zero before in most cases, so that its rounding is relative to the change.
constexpr double kBound = 1e-2;

class CorrectionTest : public testing::Test {
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }
};

TEST_F(CorrectionTest, OnePieceOfFewRows) { Check({1, 64, {{{17}, 4}}}, kBound); }
TEST_F(CorrectionTest, TwoPieces) { Check({8, 128, {{{256, 44}, 45}}}, kBound); }
TEST_F(CorrectionTest, OddHeadsOf64) { Check({3, 64, {{{256, 44}, 45}, {{70}, 69}}}, kBound); }
TEST_F(CorrectionTest, HeadsOf80) { Check({3, 80, {{{256, 44}, 45}, {{100}, 16}}}, kBound); }
TEST_F(CorrectionTest, HeadsOf96) { Check({4, 96, {{{64, 64, 3}, 20}, {{33}, 17}}}, kBound); }
TEST_F(CorrectionTest, HeadsOf256) { Check({1, 256, {{{128, 3}, 20}}}, kBound); }
TEST_F(CorrectionTest, Mistral) {
  Check({8, 128, {{{256, 256, 256, 252}, 154}, {{256, 200}, 70}}}, kBound);
}
// Enough tiles for spans of many.
TEST_F(CorrectionTest, ManyRows) {
  Case c = {8, 128, {{{1500, 1500}, 150}, {{2900}, 100}, {{2500}, 30}, {{4000}, 20}, {{3000}, 9}}};
  c.layers = c.layers_at_once = 1;
  Check(c, kBound);
}
TEST_F(CorrectionTest, BoundIsActive) { Check({2, 128, {{{300}, 45, false}}, 2, 2, 5}, kBound); }
TEST_F(CorrectionTest, ManyPicked) {
  Check({2, 128, {{{2000}, 700}, {{40}, 5}, {{400}, 161}}, 2, 1}, kBound);
}
TEST_F(CorrectionTest, MostPicked) { Check({1, 64, {{{2100}, 2048}}, 1, 1}, kBound); }
TEST_F(CorrectionTest, AlmostAllPicked) { Check({2, 64, {{{300}, 299}, {{400}, 352}}}, kBound); }
TEST_F(CorrectionTest, ContiguousMemory) {
  Case c = {2, 128, {{{256, 44}, 45}}};
  c.with_blocks = false;
  c.first_position = 64;
  Check(c, kBound);
}
TEST_F(CorrectionTest, ValuesOfZero) {
  Case c = {2, 64, {{{256, 44}, 45}}};
  c.same_v = true;
  Check(c, kBound);
}
TEST_F(CorrectionTest, FewPickedStayAsTheyAre) {
  Check({2, 64, {{{50}, 3}, {{60}, 10}, {{9}, 1}}}, kBound);
}
TEST_F(CorrectionTest, NanInTheCacheLeavesItsChunkAsItIs) {
  Check({2, 128, {{{256, 44}, 45}, {{100, 100}, 30, true}, {{90}, 20}, {{400}, 200, true}}},
        kBound);
}
TEST_F(CorrectionTest, AddsToWhatIsThere) {
  Case c = {8, 128, {{{256, 44}, 45}}};
  c.zero_kv = false;
  Check(c, 3e-2);  // the memory's own rounding, of numbers larger than the change
}

TEST_F(CorrectionTest, LayerByLayer) {
  const Inputs in({2, 128, {{{256, 44}, 45}, {{500}, 20}}, 3, 1}, 5);
  Trial at_once(in), by_layer(in);
  at_once.Prepare();
  for (int layer = 2; layer >= 0; --layer) by_layer.PrepareLayer(layer);
  for (int layer = 0; layer < 3; ++layer) {
    at_once.Apply(layer);
    by_layer.Apply(layer);
    const Bf16Vector a = at_once.K(layer), b = by_layer.K(layer);
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])), 0) << layer;
  }
}

TEST_F(CorrectionTest, InAGraph) {
  const Inputs in({2, 128, {{{256, 44}, 45}, {{500}, 200}}, 1, 1}, 5);
  Trial plain(in), captured(in);
  plain.Prepare();
  plain.Apply(0);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_OR_DIE("test", cudaStreamCreate(&stream));
  CUDA_OR_DIE("test", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  captured.Prepare(stream);
  captured.Apply(0, stream);
  CUDA_OR_DIE("test", cudaStreamEndCapture(stream, &graph));
  CUDA_OR_DIE("test", cudaGraphInstantiate(&exec, graph, 0));
  CUDA_OR_DIE("test", cudaGraphLaunch(exec, stream));
  CUDA_OR_DIE("test", cudaDeviceSynchronize());
  const Bf16Vector a = plain.V(0), b = captured.V(0);
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])), 0);
  CUDA_OR_DIE("test", cudaGraphExecDestroy(exec));
  CUDA_OR_DIE("test", cudaGraphDestroy(graph));
  CUDA_OR_DIE("test", cudaStreamDestroy(stream));
}

TEST_F(CorrectionTest, SameBitsEachTime) {
  const Inputs in({8, 128, {{{256, 44}, 45}, {{500}, 200}}, 1, 1}, 5);
  Trial one(in), other(in);
  for (Trial* run : {&one, &other}) {
    run->Prepare();
    run->Apply(0);
  }
  const Bf16Vector a = one.K(0), b = other.K(0);
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])), 0);
}

template <typename Work>
float MedianMs(Work work) {
  cudaEvent_t begin, end;
  CUDA_OR_DIE("test", cudaEventCreate(&begin));
  CUDA_OR_DIE("test", cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 23; ++i) {
    CUDA_OR_DIE("test", cudaEventRecord(begin));
    work();
    CUDA_OR_DIE("test", cudaEventRecord(end));
    CUDA_OR_DIE("test", cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OR_DIE("test", cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// 31 layers alike, which is all the same to the clock: each has memory of its own.
Inputs TimedInputs(int chunks, int32_t p, int layers) {
  Case c = {8, 128, {}, 1, 1};
  c.chunks.assign(chunks, {{256, 256, 256, 252}, p});
  Inputs in(c, 3);
  in.c.layers = in.c.layers_at_once = layers;
  for (auto* each : {&in.fresh_k, &in.fresh_v, &in.kv_k, &in.kv_v}) {
    each->resize(layers, Bf16Vector((*each)[0]));
  }
  for (ChunkValues& chunk : in.chunks) chunk.cached.resize(layers, Bf16Vector(chunk.cached[0]));
  return in;
}

void Time(int chunks, int32_t p) {
  constexpr int kLayers = 31;
  const Inputs in = TimedInputs(chunks, p, kLayers);
  Trial trial(in);
  const double rows = chunks * 1020.0, kv = rows * 2048 * 2;
  const float prepare = MedianMs([&] { trial.Prepare(); });
  const float apply = MedianMs([&] {
    for (int layer = 0; layer < kLayers; ++layer) trial.Apply(layer);
  });
  std::printf(
      "%d chunks of 1020, p %d, %d layers: prepare %.3f ms (to read the cache once: %.3f); apply "
      "%.1f us a layer (floor %.1f); results %.0f MB, workspace %.0f MB\n",
      chunks, p, kLayers, prepare, kLayers * kv / 3.0e9, apply / kLayers * 1e3,
      (2 * kv + rows * p * 2 + 2.0 * chunks * p * 4096) / 3.0e6,
      trial.correction().result_bytes() / 1e6, trial.correction().workspace_bytes(kLayers) / 1e6);
  std::fflush(stdout);
}

// One Prepare and the first layers' Apply, for a profiler.
void Profile() {
  const Inputs in = TimedInputs(8, 154, 31);
  Trial trial(in);
  trial.Prepare();
  for (int layer = 0; layer < 4; ++layer) trial.Apply(layer);
  CUDA_OR_DIE("test", cudaDeviceSynchronize());
}

}  // namespace
}  // namespace tessera::cuda

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--time") == 0) {
    if (!tessera::cuda::HasGpu()) return 0;
    tessera::cuda::Time(8, 154);
    tessera::cuda::Time(4, 154);
    tessera::cuda::Time(2, 154);
    tessera::cuda::Time(1, 154);
    tessera::cuda::Time(8, 90);
    tessera::cuda::Time(8, 300);
    return 0;
  }
  if (argc > 1 && std::strcmp(argv[1], "--profile") == 0) {
    if (tessera::cuda::HasGpu()) tessera::cuda::Profile();
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
