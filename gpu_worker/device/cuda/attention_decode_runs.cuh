// Attention of a decode row's query heads over one run of its keys.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_RUNS_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_RUNS_CUH_

#include <cmath>
#include <cstdint>

#include "gpu_worker/device/cuda/attention_decode.cuh"
#include "gpu_worker/device/cuda/attention_decode_plan.cuh"

namespace tessera::cuda::decode {

using warp::CommitCopies;
using warp::CopyAsync;
using warp::Exp2;
using warp::kLog2E;
using warp::LoadMatrices;
using warp::LoadMatricesTransposed;
using warp::MaxOverRows;
using warp::Mma;
using warp::Pack;
using warp::SumOverRows;
using warp::Transposed;

// The stream of a warp's tiles, of one run after the other, as it is copied to shared memory.
template <typename S>
class TileStream {
 public:
  __device__ TileStream(const DecodeTask& task, uint32_t stages)
      : task_(task), list_(task), stages_(stages), next_(blockIdx.x) {
    Advance();
  }

  // Starts the copies of the next tile, if there is one, as one group.
  __device__ void Copy(int stage) {
    while (more_ && key_ >= run_.keys) Advance();
    if (more_) {
      CopyTile(stage);
      key_ += S::kWarps * kTile;
    }
    CommitCopies();
  }

 private:
  __device__ void Advance() {
    more_ = list_.Find(next_, &run_);
    next_ += gridDim.x;
    key_ = threadIdx.x / 32 * kTile;
  }

  __device__ void CopyTile(int stage) {
    const int lane = threadIdx.x % 32;
    const int slot = run_.first + key_;
    const int32_t block =
        __ldg(task_.tables + static_cast<int64_t>(run_.row) * task_.table_width + slot / kBlock);
    const int64_t from =
        (run_.head * task_.head_slots + static_cast<int64_t>(block) * kBlock + slot % kBlock) *
        S::kDim;
    const uint32_t to = stages_ + stage * S::kStageBytes;
    // Slots past the row's end become zeros: what is there may be NaN, and 0 * NaN is NaN.
    const int real = (run_.keys - key_) * S::kChunks;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const __nv_bfloat16* rows = (half == 0 ? task_.k : task_.v) + from;
#pragma unroll
      for (int i = 0; i < kTile * S::kChunks / 32; ++i) {
        const int chunk = i * 32 + lane;
        CopyAsync(
            to + half * S::kTileBytes + chunk / S::kChunks * S::kPitch + chunk % S::kChunks * 16,
            rows + (chunk < real ? chunk * 8 : 0), chunk < real);
      }
    }
  }

  const DecodeTask& task_;
  RunList list_;
  uint32_t stages_;
  int64_t next_;
  Run run_;
  int key_;
  bool more_;
};

// One warp's softmax over some keys of a run, transposed: heads are columns.
template <typename S>
struct Softmax {
  static constexpr int kDim = S::kDim, kSets = S::kSets;
  uint32_t q[kSets][S::kSteps][2];  // B fragments
  float result[kSets][S::kSteps][4];
  float most[kSets][2];  // of columns 2t and 2t + 1, times scale
  float sum[kSets][2];   // of this lane's keys alone
  float scale;

  __device__ void Begin(const DecodeTask& task, const Run& run) {
    const int lane = threadIdx.x % 32, column = lane / 4, t = lane % 4;
    const __nv_bfloat16* row =
        task.q + run.row * task.q_stride + run.head * task.group * kDim + 2 * t;
    scale = kLog2E * rsqrtf(static_cast<float>(kDim));
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
      const int head = set * kHeads + column;
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          q[set][step][i] =
              head < task.group
                  ? *reinterpret_cast<const uint32_t*>(row + head * kDim + step * 16 + i * 8)
                  : 0;
        }
#pragma unroll
        for (float& x : result[set][step]) x = 0.0f;
      }
      most[set][0] = most[set][1] = -INFINITY;
      sum[set][0] = sum[set][1] = 0.0f;
    }
  }

  // Adds a tile of K and V in shared memory, of which the first `real` keys count.
  __device__ void Add(uint32_t tile, int real) {
    const int lane = threadIdx.x % 32;
    float scores[kSets][4];
    Scores(tile + lane % 16 * S::kPitch + lane / 16 * 16, scores);
    uint32_t p[kSets][2];
#pragma unroll
    for (int set = 0; set < kSets; ++set) Weigh(scores[set], real, set, p[set]);
    const uint32_t values =
        tile + S::kTileBytes + (lane % 8 + lane / 16 * 8) * S::kPitch + lane / 8 % 2 * 16;
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t a[4];
      LoadMatricesTransposed(values + step * 32, a);
#pragma unroll
      for (int set = 0; set < kSets; ++set) Mma(result[set][step], a, p[set][0], p[set][1]);
    }
  }

 private:
  // [key][head]; two sums for each, so that products wait less for one another.
  __device__ void Scores(uint32_t keys, float (&scores)[kSets][4]) {
    float other[kSets][4];
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[set][i] = other[set][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t a[4];
      LoadMatrices(keys + step * 32, a);
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
        Mma(step % 2 == 0 ? scores[set] : other[set], a, q[set][step][0], q[set][step][1]);
      }
    }
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[set][i] += other[set][i];
    }
  }

  // Scores to probabilities as B fragments [key][head], with a running maximum.
  __device__ void Weigh(float (&s)[4], int real, int set, uint32_t (&p)[2]) {
    const int key = threadIdx.x % 32 / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[i] = key + i / 2 * 8 < real ? s[i] * scale : -INFINITY;
    }
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const float top = fmaxf(most[set][column], MaxOverRows(fmaxf(s[column], s[column + 2])));
      const float shrink = Exp2(most[set][column] - top);
      most[set][column] = top;
      s[column] = Exp2(s[column] - top);
      s[column + 2] = Exp2(s[column + 2] - top);
      sum[set][column] = sum[set][column] * shrink + (s[column] + s[column + 2]);
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        result[set][step][column] *= shrink;
        result[set][step][column + 2] *= shrink;
      }
    }
    p[0] = Transposed(Pack(s[0], s[1]));
    p[1] = Transposed(Pack(s[2], s[3]));
  }
};

// Joins the warps' results of a run and writes them: to `out` if the row has no other run.
template <typename S>
__device__ void WriteRun(const DecodeTask& task, const Run& run, const Softmax<S>& mine,
                         float* merge) {
  constexpr int kDim = S::kDim, kSets = S::kSets, kWarps = S::kWarps;
  __shared__ float2 weights[kWarps][kSets * kHeads];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = 2 * (lane % 4);
#pragma unroll
  for (int set = 0; set < kSets; ++set) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float sum = SumOverRows(mine.sum[set][i]);
      if (lane < 4) weights[warp][set * kHeads + column + i] = {mine.most[set][i], sum};
    }
  }
  __syncthreads();
#pragma unroll
  for (int set = 0; set < kSets; ++set) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = weights[0][set * kHeads + column + i].x;
      for (int w = 1; w < kWarps; ++w) top = fmaxf(top, weights[w][set * kHeads + column + i].x);
      const float shrink = Exp2(mine.most[set][i] - top);
      float* to = merge + (warp * kHeads + column + i) * S::kMergePitch + lane / 4;
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        to[step * 16] = mine.result[set][step][i] * shrink;
        to[step * 16 + 8] = mine.result[set][step][i + 2] * shrink;
      }
    }
    __syncthreads();
    const int heads = min(kHeads, task.group - set * kHeads);
    for (int i = threadIdx.x; i < heads * (kDim / 4); i += S::kThreads) {
      const int head = i / (kDim / 4), dim = i % (kDim / 4) * 4;
      float top = weights[0][set * kHeads + head].x, sum = 0.0f;
      for (int w = 1; w < kWarps; ++w) top = fmaxf(top, weights[w][set * kHeads + head].x);
      float4 all = {0, 0, 0, 0};
      for (int w = 0; w < kWarps; ++w) {
        const float2 weight = weights[w][set * kHeads + head];
        sum += weight.y * Exp2(weight.x - top);
        const float4 x =
            *reinterpret_cast<const float4*>(merge + (w * kHeads + head) * S::kMergePitch + dim);
        all = {all.x + x.x, all.y + x.y, all.z + x.z, all.w + x.w};
      }
      const int q_head = run.head * task.group + set * kHeads + head;
      if (run.only) {
        const float scale = 1.0f / sum;
        *reinterpret_cast<uint2*>(task.out + run.row * task.out_stride + q_head * kDim + dim) = {
            Pack(all.x * scale, all.y * scale), Pack(all.z * scale, all.w * scale)};
        continue;
      }
      const int64_t at =
          (static_cast<int64_t>(run.row) * task.kv_heads * task.group + q_head) * task.most_runs +
          run.index;
      *reinterpret_cast<float4*>(task.partial + at * kDim + dim) = all;
      if (dim == 0) task.weight[at] = {top, sum};
    }
    __syncthreads();  // before the next results, of this run or another, are put there
  }
}

}  // namespace tessera::cuda::decode

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_RUNS_CUH_
