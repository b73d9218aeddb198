#include "gpu_worker/device/cuda/ops_cuda.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "glog/logging.h"
#include "gpu_worker/device/cuda/attention.h"
#include "gpu_worker/device/cuda/attention_decode.h"
#include "gpu_worker/device/cuda/attention_scored.h"
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/choose_device.h"
#include "gpu_worker/device/cuda/cuda_memory.h"
#include "gpu_worker/device/cuda/gemm.h"
#include "gpu_worker/device/cuda/gemm_few.h"
#include "gpu_worker/device/cuda/gemm_prepare.h"
#include "gpu_worker/device/cuda/graph_recording.h"
#include "gpu_worker/device/cuda/logits_summary.h"
#include "gpu_worker/device/cuda/place.h"
#include "gpu_worker/device/cuda/prepared_correction.h"
#include "gpu_worker/device/cuda/rows.h"
#include "gpu_worker/device/cuda/views.h"

namespace tessera {
namespace cuda {
namespace {

// Memory of one op: freed when its work has been issued.
class Scratch {
 public:
  Scratch(CudaMemory* memory, size_t bytes)
      : memory_(*memory), bytes_(bytes == 0 ? nullptr : memory->Allocate(bytes)) {}
  ~Scratch() { memory_.Free(bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() const { return bytes_; }

 private:
  CudaMemory& memory_;
  void* const bytes_;
};

// Indices on the device, brought there if they are not.
class OnDevice {
 public:
  OnDevice(CudaMemory* memory, const IndexView& indices)
      : copy_(memory, indices.device == nullptr ? indices.size() * sizeof(int32_t) : 0),
        numbers_(indices.device) {
    if (copy_.get() == nullptr) return;
    memory->Upload(indices.host.data(), indices.size() * sizeof(int32_t), copy_.get());
    numbers_ = static_cast<const int32_t*>(copy_.get());
  }
  const int32_t* get() const { return numbers_; }

 private:
  const Scratch copy_;
  const int32_t* numbers_;
};

// Whether weights, biases and results of products with one x lie side by side.
bool AreSideBySide(absl::Span<const Weight> w, absl::Span<const absl::Span<const float>> bias,
                   absl::Span<const Matrix> out) {
  for (size_t i = 1; i < w.size(); ++i) {
    const Weight& before = w[i - 1];
    const char* const end =
        static_cast<const char*>(before.data) + before.rows * before.cols * BytesPer(before.dtype);
    if (w[i].data != end || w[i].cols != before.cols) return false;
    if (out[i].memory != out[i - 1].At(0, out[i - 1].cols)) return false;
    if (out[i].step() != out[0].step() || out[i].dtype != out[0].dtype) return false;
    if (bias.empty()) continue;
    if (bias[i].empty() != bias[0].empty()) return false;
    if (!bias[i].empty() && bias[i].data() != bias[i - 1].data() + bias[i - 1].size()) return false;
  }
  return true;
}

class CudaOps final : public Ops {
 public:
  explicit CudaOps(std::string name) : name_(std::move(name)) {}

  std::string name() const override { return name_; }
  DeviceMemory& memory() override { return memory_; }

  void Prepare(absl::Span<const ProductShape> products, const std::string& folder) override {
    std::vector<GemmNeed> needs;
    for (const ProductShape& p : products) {
      if (p.most_rows <= kMostFewRows) continue;  // another kernel's
      needs.push_back({{p.cols, p.inner, p.out == DType::kF32, p.accumulate, p.bias}, p.most_rows});
    }
    gemm_.Use(PrepareGemms(gemm_.platform(), needs, folder, [this](const auto& product, auto rows) {
                return gemm_.Measure(product, rows);
              }).choices);
  }

  void Repeat(std::unique_ptr<Recording>* recording, absl::FunctionRef<void()> work) override {
    if (*recording == nullptr) {
      auto made = std::make_unique<GraphRecording>(&memory_);
      made->Record(work);
      *recording = std::move(made);
      return;
    }
    static_cast<GraphRecording&>(**recording).Replay();
  }

  void Embed(const Weight& table, IndexView ids, Matrix out) override {
    CheckRows(out, ids);
    const OnDevice on_device(&memory_, ids);
    EmbedRows(NumbersOf(table), table.cols, reinterpret_cast<const uint32_t*>(on_device.get()),
              F32Of(out), stream());
  }

  void RmsNorm(Matrix x, absl::Span<const float> gain, float eps, Matrix out) override {
    if (x.dtype == DType::kF32) {
      CHECK_EQ(x.cols, static_cast<int64_t>(gain.size()));
      cuda::RmsNorm(F32Of(x), gain.data(), eps, Bf16Of(out), stream());
      return;
    }
    if (out.memory != x.memory) CopyRows(Bf16Of(x), Bf16Of(out), stream());
    RmsNormHeads(Bf16Of(out), gain.data(), static_cast<int>(gain.size()), eps, stream());
  }

  void MatMul(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
              Matrix out) override {
    if (x.rows <= kMostFewRows) return MatMulByRow(x, w, bias, accumulate, out);
    CHECK_EQ(x.cols, w.cols);
    CHECK_EQ(out.cols, w.rows);
    auto run = [&](auto rows) {
      gemm_.Run(Bf16Of(x), NumbersOf(w), w.rows, BiasOf(bias), accumulate, rows, stream());
    };
    out.dtype == DType::kF32 ? run(F32Of(out)) : run(Bf16Of(out));
  }

  void MatMulByRow(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                   Matrix out) override {
    CHECK_EQ(x.cols, w.cols);
    CHECK_EQ(out.cols, w.rows);
    const Scratch workspace(&memory_, GemmFewWorkspace(w.rows, w.cols));
    for (int64_t first = 0; first < x.rows; first += kMostFewRows) {
      const int64_t rows = std::min<int64_t>(kMostFewRows, x.rows - first);
      auto run = [&](auto to) {
        GemmFew(Bf16Of(x.Slice(first, rows)), NumbersOf(w), w.rows, BiasOf(bias), accumulate, to,
                workspace.get(), stream());
      };
      const Matrix to = out.Slice(first, rows);
      to.dtype == DType::kF32 ? run(F32Of(to)) : run(Bf16Of(to));
    }
  }

  void MatMulMany(Matrix x, absl::Span<const Weight> w,
                  absl::Span<const absl::Span<const float>> bias, bool by_row,
                  absl::Span<const Matrix> out) override {
    if (!AreSideBySide(w, bias, out)) return Ops::MatMulMany(x, w, bias, by_row, out);
    Weight all = w[0];
    Matrix to = out[0];
    to.stride = out[0].step();
    for (size_t i = 1; i < w.size(); ++i) {
      all.rows += w[i].rows;
      to.cols += out[i].cols;
    }
    absl::Span<const float> all_bias;
    if (!bias.empty() && !bias[0].empty()) all_bias = {bias[0].data(), size_t(all.rows)};
    if (by_row) {
      MatMulByRow(x, all, all_bias, /*accumulate=*/false, to);
    } else {
      MatMul(x, all, all_bias, /*accumulate=*/false, to);
    }
  }

  void Rotate(Matrix x, IndexView positions, const RopeTable& rope) override {
    CheckRows(x, positions);
    const OnDevice on_device(&memory_, positions);
    RotateRows(Bf16Of(x), on_device.get(), RopeOf(rope), stream());
  }

  void RotateAndWriteKv(Matrix k, Matrix v, IndexView positions, const RopeTable& rope,
                        const LayerKv& kv) override {
    CheckRows(k, positions);
    CHECK(positions.empty() || positions.back() < kv.capacity);
    const OnDevice on_device(&memory_, positions);
    WriteKv(Bf16Of(k), Bf16Of(v), on_device.get(), RopeOf(rope), ViewOf(kv), stream());
  }

  void RotateAndWrite(Matrix q, Matrix k, Matrix v, IndexView positions, const RopeTable& rope,
                      const LayerKv& kv) override {
    CheckRows(q, positions);
    CheckRows(k, positions);
    CHECK(positions.empty() || positions.back() < kv.capacity);
    const OnDevice on_device(&memory_, positions);
    cuda::RotateAndWrite(Bf16Of(q), Bf16Of(k), Bf16Of(v), on_device.get(), RopeOf(rope), ViewOf(kv),
                         stream());
  }

  void RotateAndWriteRows(Matrix q, Matrix k, Matrix v, IndexView positions, const RopeTable& rope,
                          const TablesView& tables, const LayerKv& pool) override {
    CheckRows(q, positions);
    CheckRows(k, positions);
    CheckTables(k, tables);
    const OnDevice on_device(&memory_, positions), blocks(&memory_, tables.tables);
    cuda::RotateAndWrite(Bf16Of(q), Bf16Of(k), Bf16Of(v), on_device.get(), blocks.get(),
                         static_cast<int>(tables.width), RopeOf(rope), PoolOf(pool), stream());
  }

  void PlaceSlice(const SliceView& slice, int64_t first_position, const RopeTable& rope,
                  const LayerKv& kv) override {
    PlaceSlices({{slice, first_position}}, rope, kv);
  }

  void PlaceSlices(absl::Span<const PlacedSlice> slices, const RopeTable& rope,
                   const LayerKv& kv) override {
    for (const auto& [slice, first] : slices) CHECK_LE(first + slice.tokens, kv.capacity);
    const std::vector<Slice> all = SlicesOf(slices);
    cuda::PlaceSlices(all.data(), static_cast<int>(all.size()), RopeOf(rope), ViewOf(kv), stream());
  }

  void Attend(Matrix q, IndexView positions, const LayerKv& kv, Matrix out) override {
    CheckRows(q, positions);
    if (q.rows == 0) return;
    CHECK_LT(positions.back(), kv.capacity);
    const OnDevice on_device(&memory_, positions);
    const Scratch workspace(&memory_, AttendWorkspace(static_cast<int>(kv.head_dim)));
    cuda::Attend(Bf16Of(q), on_device.get(), positions.back(), ViewOf(kv), Bf16Of(out),
                 workspace.get(), stream());
  }

  void AttendRows(Matrix q, IndexView positions, const TablesView& tables, const LayerKv& pool,
                  Matrix out) override {
    CheckRows(q, positions);
    CheckTables(q, tables);
    if (q.rows == 0) return;
    const OnDevice on_device(&memory_, positions), blocks(&memory_, tables.tables);
    const auto width = static_cast<int>(tables.width), head_dim = static_cast<int>(pool.head_dim);
    const Scratch workspace(
        &memory_, DecodeAttendWorkspace(static_cast<int>(q.rows),
                                        static_cast<int>(q.cols / head_dim), head_dim, width));
    DecodeAttend(Bf16Of(q), on_device.get(), blocks.get(), width, PoolOf(pool), Bf16Of(out),
                 workspace.get(), stream());
  }

  void AttendScored(Matrix q, IndexView positions, const LayerKv& kv, bool by_value_norm,
                    Matrix out, absl::Span<float> scores) override {
    CheckRows(q, positions);
    if (q.rows == 0) return;
    const auto slots = static_cast<int64_t>(scores.size());
    CHECK_LT(positions.back(), std::min(kv.capacity, slots));
    const OnDevice on_device(&memory_, positions);
    const auto head_dim = static_cast<int>(kv.head_dim);
    const Scratch workspace(
        &memory_,
        AttendScoredWorkspace(q.rows, static_cast<int>(q.cols / head_dim), head_dim, slots));
    cuda::AttendScored(Bf16Of(q), on_device.get(), positions.back(), ViewOf(kv), by_value_norm,
                       Bf16Of(out), scores.data(), slots, workspace.get(), stream());
  }

  void SwiGlu(Matrix gate, Matrix up) override { cuda::SwiGlu(Bf16Of(gate), Bf16Of(up), stream()); }

  void GatherRows(Matrix x, IndexView rows, Matrix out) override {
    CheckRows(out, rows);
    const OnDevice on_device(&memory_, rows);
    if (x.dtype == DType::kF32) {
      GatherRowsF32(F32Of(x), on_device.get(), F32Of(out), stream());
    } else {
      GatherRowsBf16(Bf16Of(x), on_device.get(), Bf16Of(out), stream());
    }
  }

  void Deviation(Matrix fresh, const Bf16* cached, absl::Span<float> deviation) override {
    Deviations(fresh, {{{cached, cached, fresh.rows}, 0}}, /*of_v=*/false, deviation);
  }

  void Deviations(Matrix fresh, absl::Span<const PlacedSlice> slices, bool of_v,
                  absl::Span<float> deviation) override {
    const std::vector<Slice> all = SlicesOf(slices);
    cuda::Deviation(Bf16Of(fresh), all.data(), static_cast<int>(all.size()), of_v, deviation.data(),
                    stream());
  }

  void Correct(absl::Span<const CorrectionTask> tasks, Matrix fresh_k, Matrix fresh_v,
               const CorrectionConstants& constants, const RopeTable& rope,
               const LayerKv& kv) override {
    std::vector<CorrectedChunk> chunks;
    CorrectedSlices slices;
    for (const CorrectionTask& task : tasks) {
      chunks.push_back({task.first_position, task.picked, task.fresh_rows});
      slices.push_back(task.pieces);
    }
    const auto correction = MakeCorrection(chunks, constants, {1, kv.kv_heads, kv.head_dim}, rope);
    correction->Prepare(0, {slices});
    correction->Apply(0, fresh_k, fresh_v, kv);
  }

  std::unique_ptr<tessera::Correction> MakeCorrection(absl::Span<const CorrectedChunk> chunks,
                                                      const CorrectionConstants& constants,
                                                      const KvShape& shape,
                                                      const RopeTable& rope) override {
    return std::make_unique<PreparedCorrection>(&memory_, chunks, constants, shape, RopeOf(rope));
  }

  void RoundToSlice(Matrix k, Matrix v, Bf16* slice_k, Bf16* slice_v) override {
    cuda::RoundToSlice(Bf16Of(k), Bf16Of(v), reinterpret_cast<__nv_bfloat16*>(slice_k),
                       reinterpret_cast<__nv_bfloat16*>(slice_v), stream());
  }

  void SummarizeLogits(Matrix logits, const float* temperatures,
                       const LogitsSummaries& out) override {
    static_assert(kSegment == LogitsSummary::kSegment);
    static_assert(kMostTopLogits >= LogitsSummary::kMostLikeliest);
    CHECK_EQ(logits.rows, out.rows);
    const F32Rows rows = F32Of(logits);
    TopLogits(rows, static_cast<int>(out.likeliest_per_row), out.likeliest, out.ids, stream());
    SegmentMasses(rows, temperatures, out.tops, out.masses, out.masses_at_temperature, stream());
  }

 private:
  cudaStream_t stream() const { return memory_.stream(); }

  // One of the indices belongs to each row.
  static void CheckRows(const Matrix& x, const IndexView& indices) {
    CHECK_EQ(x.rows, static_cast<int64_t>(indices.size()));
  }
  static void CheckTables(const Matrix& x, const TablesView& tables) {
    CHECK_EQ(x.rows * tables.width, static_cast<int64_t>(tables.tables.size()));
  }

  static const float* BiasOf(absl::Span<const float> bias) {
    return bias.empty() ? nullptr : bias.data();
  }

  static std::vector<Slice> SlicesOf(absl::Span<const PlacedSlice> slices) {
    std::vector<Slice> all;
    for (const auto& [slice, first] : slices) all.push_back(SliceOf(slice, first));
    return all;
  }

  // A whole pool, whose blocks tables name.
  static KvView PoolOf(LayerKv pool) {
    pool.blocks = pool.device_blocks = nullptr;
    return ViewOf(pool);
  }

  Rope RopeOf(const RopeTable& rope) {
    const size_t numbers = rope.cos.size(), bytes = numbers * sizeof(float);
    if (rope.on_device == nullptr) {
      const std::shared_ptr<void> both = AllocateShared(memory_, 2 * bytes);
      float* const cos = static_cast<float*>(both.get());
      memory_.Upload(rope.cos.data(), bytes, cos);
      memory_.Upload(rope.sin.data(), bytes, cos + numbers);
      rope.on_device = std::shared_ptr<const float>(both, cos);
    }
    return {rope.on_device.get(), rope.on_device.get() + numbers, static_cast<int>(rope.half_dim)};
  }

  const std::string name_;
  CudaMemory memory_;
  Gemm gemm_;
};

}  // namespace
}  // namespace cuda

absl::StatusOr<std::unique_ptr<Ops>> MakeCudaOps(int index) {
  ASSIGN_OR_RETURN(const std::string name, cuda::ChooseDevice(index));
  std::unique_ptr<Ops> ops =
      std::make_unique<cuda::CudaOps>(absl::StrCat("cuda-bf16 (", name, ")"));
  return ops;
}

}  // namespace tessera
