// The CPU's operations: plain loops, spread over the cores. They are the specification of every
// other device's; products are in matmul.cc, attention in attention.cc, the correction in
// correction.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "glog/logging.h"
#include "gpu_worker/device/cpu/attention.h"
#include "gpu_worker/device/cpu/correction.h"
#include "gpu_worker/device/cpu/logits_summary.h"
#include "gpu_worker/device/cpu/matmul.h"
#include "gpu_worker/device/cpu/parallel.h"
#include "gpu_worker/device/cpu/rope.h"
#include "gpu_worker/device/cpu/vector_math.h"
#include "gpu_worker/device/ops.h"

namespace tessera {
namespace {

constexpr int64_t kRowGrain = 16;

class CpuOps final : public Ops {
 public:
  explicit CpuOps(int threads) : parallel_(threads), matmul_(&parallel_) {}

  std::string name() const override { return matmul_.uses_bf16() ? "cpu-bf16" : "cpu-f32"; }

  DeviceMemory& memory() override { return HostMemory(); }

  void Embed(const Weight& table, IndexView ids, Matrix out) override {
    CHECK_EQ(out.rows, static_cast<int64_t>(ids.size()));
    for (int64_t r = 0; r < out.rows; ++r) {
      CHECK_LT(ids[r], table.rows);
      const int64_t at = int64_t{ids[r]} * table.cols;
      if (table.dtype == DType::kBf16) {
        Widen(static_cast<const Bf16*>(table.data) + at, table.cols, out.Row(r));
      } else {
        std::copy_n(static_cast<const float*>(table.data) + at, table.cols, out.Row(r));
      }
    }
  }

  void RmsNorm(Matrix x, absl::Span<const float> gain, float eps, Matrix out) override {
    const int64_t n = static_cast<int64_t>(gain.size());
    CHECK_EQ(x.cols % n, 0);
    parallel_.ForRanges(x.rows * x.cols / n, kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const float* from = x.data() + r * n;
        float* to = out.data() + r * n;
        const float scale = 1.0f / std::sqrt(Dot(from, from, n) / static_cast<float>(n) + eps);
        for (int64_t i = 0; i < n; ++i) to[i] = from[i] * scale * gain[i];
      }
    });
  }

  void MatMul(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
              Matrix out) override {
    matmul_.Run(x, w, bias, accumulate, out);
  }

  void MatMulByRow(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                   Matrix out) override {
    matmul_.RunByRow(x, w, bias, accumulate, out);
  }

  void Rotate(Matrix x, IndexView positions, const RopeTable& rope) override {
    const int64_t head_dim = 2 * rope.half_dim;
    parallel_.ForRanges(x.rows, kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        for (int64_t h = 0; h < x.cols / head_dim; ++h) {
          RotateHead(rope, positions[r], x.Row(r) + h * head_dim);
        }
      }
    });
  }

  void RotateAndWriteKv(Matrix k, Matrix v, IndexView positions, const RopeTable& rope,
                        const LayerKv& kv) override {
    Rotate(k, positions, rope);
    for (int64_t r = 0; r < k.rows; ++r) {
      CHECK_LT(positions[r], kv.capacity);
      for (int64_t h = 0; h < kv.kv_heads; ++h) {
        std::copy_n(k.Row(r) + h * kv.head_dim, kv.head_dim, kv.K(h, positions[r]));
        std::copy_n(v.Row(r) + h * kv.head_dim, kv.head_dim, kv.V(h, positions[r]));
      }
    }
  }

  void PlaceSlice(const SliceView& slice, int64_t first_position, const RopeTable& rope,
                  const LayerKv& kv) override {
    CHECK_LE(first_position + slice.tokens, kv.capacity);
    const int64_t width = kv.kv_heads * kv.head_dim;
    parallel_.ForRanges(slice.tokens, 64, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        for (int64_t h = 0; h < kv.kv_heads; ++h) {
          float* k = kv.K(h, first_position + t);
          Widen(slice.k + t * width + h * kv.head_dim, kv.head_dim, k);
          RotateHead(rope, first_position + t, k);
          Widen(slice.v + t * width + h * kv.head_dim, kv.head_dim, kv.V(h, first_position + t));
        }
      }
    });
  }

  void Attend(Matrix q, IndexView positions, const LayerKv& kv, Matrix out) override {
    AttendOnCpu(parallel_, q, positions.host, kv, out);
  }

  void AttendScored(Matrix q, IndexView positions, const LayerKv& kv, bool by_value_norm,
                    Matrix out, absl::Span<float> scores) override {
    AttendScoredOnCpu(parallel_, q, positions.host, kv, by_value_norm, out, scores);
  }

  void SwiGlu(Matrix gate, Matrix up) override {
    parallel_.ForRanges(gate.rows * gate.cols, 1 << 14, [&](int64_t first, int64_t last) {
      int64_t i = first;
      for (; i + 8 <= last; i += 8) SwiGlu8(gate.data() + i, up.data() + i);
      for (; i < last; ++i) {
        const float x = gate.data()[i];
        gate.data()[i] = x / (1.0f + std::exp(-x)) * up.data()[i];
      }
    });
  }

  void GatherRows(Matrix x, IndexView rows, Matrix out) override {
    CHECK_EQ(out.rows, static_cast<int64_t>(rows.size()));
    for (int64_t r = 0; r < out.rows; ++r) std::copy_n(x.Row(rows[r]), x.cols, out.Row(r));
  }

  void Deviation(Matrix fresh, const Bf16* cached, absl::Span<float> deviation) override {
    CHECK_EQ(fresh.rows, static_cast<int64_t>(deviation.size()));
    for (int64_t r = 0; r < fresh.rows; ++r) {
      float sum = 0;
      for (int64_t i = 0; i < fresh.cols; ++i) {
        const float d = fresh.Row(r)[i] - ToFloat(cached[r * fresh.cols + i]);
        sum += d * d;
      }
      deviation[r] = sum;
    }
  }

  void Correct(absl::Span<const CorrectionTask> tasks, Matrix fresh_k, Matrix fresh_v,
               const CorrectionConstants& constants, const RopeTable& rope,
               const LayerKv& kv) override {
    CorrectOnCpu(parallel_, tasks, fresh_k, fresh_v, constants, rope, kv);
  }

  void RoundToSlice(Matrix k, Matrix v, Bf16* slice_k, Bf16* slice_v) override {
    auto round = [](Matrix x, Bf16* to) {
      for (int64_t i = 0; i < x.rows * x.cols; ++i) {
        to[i] = ToBf16(x.data()[i]);
        x.data()[i] = ToFloat(to[i]);
      }
    };
    round(k, slice_k);
    round(v, slice_v);
  }

  void SummarizeLogits(Matrix logits, const float* temperatures,
                       const LogitsSummaries& out) override {
    SummarizeLogitsOnCpu(parallel_, logits, temperatures, out);
  }

 private:
  Parallel parallel_;
  tessera::MatMul matmul_;
};

}  // namespace

std::unique_ptr<Ops> MakeCpuOps(int threads) { return std::make_unique<CpuOps>(threads); }

}  // namespace tessera
