// First pass of AttendScored: attention over runs of keys, without the joining of runs.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_SCORED_RUNS_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_SCORED_RUNS_CUH_

#include <cstdint>

#include "gpu_worker/device/cuda/attention_decode.cuh"
#include "gpu_worker/device/cuda/kernels.h"
#include "gpu_worker/device/cuda/launch.cuh"

namespace tessera::cuda {

// Queries are taken in tiles of tile_rows rows, with all heads of a KV head's group: query
// (row, j) is row  row % tile_rows * group + j  of tile  row / tile_rows.  A unit is a run of keys
// of one tile of one KV head, number  (head * tiles + tile) * runs + run.
struct ScoredTask {
  const __nv_bfloat16* q;
  int64_t q_stride;
  const int32_t* positions;
  int rows, group, last;  // last: position
  KvView kv;
  bool by_value_norm;
  __nv_bfloat16* out;
  int64_t out_stride;

  int tile_rows, tiles;
  int runs, run_keys;
  // Of units: unnormalised results [unit][queries][head_dim]; their maxima (in powers of two) and
  // sums [unit][queries].
  float* partial;
  float2* weight;
  float* norm;  // |V| [kv_head][last + 1]
  float* paid;  // [kv_head][last + 1]
  float* scores;

  __device__ int64_t Row(int head, int slot) const {
    constexpr int kBlock = KvView::kBlockSlots;
    if (kv.blocks == nullptr) return head * kv.head_slots + slot;
    return head * kv.head_slots + static_cast<int64_t>(__ldg(kv.blocks + slot / kBlock)) * kBlock +
           slot % kBlock;
  }
};

// Warps have 16 queries each; kKeys keys at a time are in kStages stages of shared memory.
template <int kDim_, int kWarps_, int kKeys_, int kStages_>
struct RunShape {
  static constexpr int kDim = kDim_, kWarps = kWarps_, kKeys = kKeys_, kStages = kStages_;
  static constexpr int kThreads = 32 * kWarps, kQueries = 16 * kWarps;
  static constexpr int kChunks = kDim / 8;  // of 16 bytes, of a row
  // An odd number of chunks from row to row: eight rows' same chunk lie in different banks.
  static constexpr int kPitch = 16 * (kChunks + (kChunks % 2 == 0 ? 1 : 0));
  static constexpr int kTileBytes = kKeys * kPitch;
  static constexpr int kSteps = kDim / 16;
  // Queries that do not fit the registers beside the results stay in shared memory.
  static constexpr bool kQueriesInRegisters = kDim <= 128;
  static constexpr int kQueryBytes = kQueriesInRegisters ? 0 : kQueries * kPitch;
  static constexpr int kShared = kStages * 2 * kTileBytes + kQueryBytes;
  static_assert(KvView::kBlockSlots % kKeys == 0);
};

// Starts the copies of a tile's K and V from `key` on, as one group; zeros past the last slot: what
// is there may be NaN, and 0 * NaN is NaN.
template <typename S>
__device__ void CopyKeys(const ScoredTask& task, int head, int key, uint32_t to) {
  const int64_t from = task.Row(head, key) * S::kDim;
  const int real = min(S::kKeys, task.last + 1 - key) * S::kChunks;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const __nv_bfloat16* rows = (half == 0 ? task.kv.k : task.kv.v) + from;
#pragma unroll
    for (int i = 0; i < (S::kKeys * S::kChunks + S::kThreads - 1) / S::kThreads; ++i) {
      const int chunk = i * S::kThreads + threadIdx.x;
      if (chunk >= S::kKeys * S::kChunks) break;
      warp::CopyAsync(
          to + half * S::kTileBytes + chunk / S::kChunks * S::kPitch + chunk % S::kChunks * 16,
          rows + (chunk < real ? chunk * 8 : 0), chunk < real);
    }
  }
}

// |V| of a tile's keys, from shared memory; four threads for each key.
template <typename S>
__device__ void WriteNorms(const ScoredTask& task, int head, int key, const char* values) {
  static_assert(S::kThreads >= 4 * S::kKeys);
  const int row = threadIdx.x / 4;
  float sum = 0.0f;
  if (row < S::kKeys) {
    for (int chunk = threadIdx.x % 4; chunk < S::kChunks; chunk += 4) {
      const uint4 eight = *reinterpret_cast<const uint4*>(values + row * S::kPitch + chunk * 16);
      for (const uint32_t two : {eight.x, eight.y, eight.z, eight.w}) {
        const float low = __uint_as_float(two << 16), high = __uint_as_float(two & 0xffff0000u);
        sum = fmaf(low, low, fmaf(high, high, sum));
      }
    }
  }
  sum += __shfl_xor_sync(warp::kAll, sum, 1);
  sum += __shfl_xor_sync(warp::kAll, sum, 2);
  if (threadIdx.x % 4 == 0 && row < S::kKeys && key + row <= task.last) {
    task.norm[static_cast<int64_t>(head) * (task.last + 1) + key + row] = sqrtf(sum);
  }
}

// A warp's 16 queries and their softmax over the keys so far. A lane has rows g and g + 8 of the
// accumulators' layout.
template <typename S>
struct QueryRows {
  uint32_t q[S::kQueriesInRegisters ? S::kSteps : 1][4];
  uint32_t q_shared;  // address of this lane's rows for LoadMatrices
  float result[2 * S::kSteps][4];
  float most[2];
  float sum[2];
  int position[2];                    // -1: there is no such query
  int first_position, last_position;  // of the warp's queries

  __device__ void Begin(const ScoredTask& task, int head, int tile, uint32_t shared) {
    const int lane = threadIdx.x % 32, t = lane % 4;
    const int first = threadIdx.x / 32 * 16;
    const int queries = min(task.tile_rows, task.rows - tile * task.tile_rows) * task.group;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = first + lane / 4 + 8 * i;
      const int row = tile * task.tile_rows + query / task.group;
      position[i] = query < queries ? task.positions[row] : -1;
      most[i] = -INFINITY;
      sum[i] = 0.0f;
      const __nv_bfloat16* from =
          task.q + row * task.q_stride + (head * task.group + query % task.group) * S::kDim + 2 * t;
      if constexpr (S::kQueriesInRegisters) {
#pragma unroll
        for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            q[step][i + 2 * half] =
                query < queries ? *reinterpret_cast<const uint32_t*>(from + step * 16 + half * 8)
                                : 0;
          }
        }
      }
    }
    q_shared = shared + (first + lane % 16) * S::kPitch + lane / 16 * 16;
    last_position = max(position[0], position[1]);
    last_position = __reduce_max_sync(warp::kAll, last_position);
    first_position = __reduce_min_sync(warp::kAll, min(position[0], position[1]));
#pragma unroll
    for (auto& block : result) {
      block[0] = block[1] = block[2] = block[3] = 0.0f;
    }
  }

  // Adds the tile of keys from `key` on.
  __device__ void Add(uint32_t tile, int key) {
    if (key > last_position) return;
    float s[S::kKeys / 8][4];
    Scores(tile, s);
    if (key + S::kKeys - 1 > first_position) Mask(key, s);
    Weigh(s);
    AddValues(tile + S::kTileBytes, s);
  }

 private:
  __device__ void Scores(uint32_t tile, float (&s)[S::kKeys / 8][4]) {
    const int lane = threadIdx.x % 32;
    const uint32_t keys = tile + (lane % 8 + lane / 16 * 8) * S::kPitch + lane / 8 % 2 * 16;
#pragma unroll
    for (auto& block : s) block[0] = block[1] = block[2] = block[3] = 0.0f;
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t a[4];
      if constexpr (S::kQueriesInRegisters) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = q[step][i];
      } else {
        warp::LoadMatrices(q_shared + step * 32, a);
      }
#pragma unroll
      for (int i = 0; i < S::kKeys / 16; ++i) {
        uint32_t b[4];
        warp::LoadMatrices(keys + i * 16 * S::kPitch + step * 32, b);
        warp::Mma(s[2 * i], a, b[0], b[1]);
        warp::Mma(s[2 * i + 1], a, b[2], b[3]);
      }
    }
  }

  __device__ void Mask(int key, float (&s)[S::kKeys / 8][4]) {
    key += threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < S::kKeys / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (key + i * 8 + j % 2 > position[j / 2]) s[i][j] = -INFINITY;
      }
    }
  }

  // Scores to unnormalised probabilities.
  __device__ void Weigh(float (&s)[S::kKeys / 8][4]) {
    const float scale = warp::kLog2E * rsqrtf(static_cast<float>(S::kDim));
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float top = -INFINITY;
#pragma unroll
      for (auto& block : s) top = fmaxf(top, fmaxf(block[2 * row], block[2 * row + 1]));
      top = fmaxf(top, __shfl_xor_sync(warp::kAll, top, 1));
      top = fmaxf(top, __shfl_xor_sync(warp::kAll, top, 2));
      top = fmaxf(most[row], top * scale);
      const float safe = top == -INFINITY ? 0.0f : top;
      const float shrink = warp::Exp2(most[row] - safe);
      most[row] = top;
      float all = 0.0f;
#pragma unroll
      for (auto& block : s) {
#pragma unroll
        for (int j = 2 * row; j < 2 * row + 2; ++j) {
          block[j] = warp::Exp2(fmaf(block[j], scale, -safe));
          all += block[j];
        }
      }
      sum[row] = fmaf(sum[row], shrink, all);
#pragma unroll
      for (auto& block : result) {
        block[2 * row] *= shrink;
        block[2 * row + 1] *= shrink;
      }
    }
  }

  __device__ void AddValues(uint32_t tile, const float (&p)[S::kKeys / 8][4]) {
    uint32_t a[S::kKeys / 16][4];
#pragma unroll
    for (int i = 0; i < S::kKeys / 16; ++i) {
      a[i][0] = warp::Pack(p[2 * i][0], p[2 * i][1]);
      a[i][1] = warp::Pack(p[2 * i][2], p[2 * i][3]);
      a[i][2] = warp::Pack(p[2 * i + 1][0], p[2 * i + 1][1]);
      a[i][3] = warp::Pack(p[2 * i + 1][2], p[2 * i + 1][3]);
    }
    const int lane = threadIdx.x % 32;
    const uint32_t values = tile + lane % 16 * S::kPitch + lane / 16 * 16;
#pragma unroll
    for (int i = 0; i < S::kKeys / 16; ++i) {
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        uint32_t b[4];
        warp::LoadMatricesTransposed(values + i * 16 * S::kPitch + step * 32, b);
        warp::Mma(result[2 * step], a[i], b[0], b[1]);
        warp::Mma(result[2 * step + 1], a[i], b[2], b[3]);
      }
    }
  }
};

// The tile's queries to shared memory.
template <typename S>
__device__ void CopyQueries(const ScoredTask& task, int head, int tile, uint32_t to) {
  const int queries = min(task.tile_rows, task.rows - tile * task.tile_rows) * task.group;
  for (int chunk = threadIdx.x; chunk < S::kQueries * S::kChunks; chunk += S::kThreads) {
    const int query = chunk / S::kChunks;
    const bool real = query < queries;
    const int64_t row = tile * task.tile_rows + (real ? query / task.group : 0);
    warp::CopyAsync(to + query * S::kPitch + chunk % S::kChunks * 16,
                    task.q + row * task.q_stride +
                        (head * task.group + query % task.group) * S::kDim + chunk % S::kChunks * 8,
                    real);
  }
}

// One block for each unit.
template <typename S>
__global__ void __launch_bounds__(S::kThreads) ScoredRuns(const __grid_constant__ ScoredTask task) {
  extern __shared__ __align__(16) char shared[];
  AwaitLast();
  LetNextStart();
  const int unit = blockIdx.x, run = unit % task.runs;
  const int tile = unit / task.runs % task.tiles, head = unit / task.runs / task.tiles;
  const int last_row = min(task.rows, (tile + 1) * task.tile_rows) - 1;
  const int first = run * task.run_keys;
  // The last tile's last position needs no reading.
  const int seen = tile == task.tiles - 1 ? task.last : task.positions[last_row];
  const int last = min(first + task.run_keys - 1, seen);
  const int steps = last < first ? 0 : (last - first) / S::kKeys + 1;
  const uint32_t stages = warp::SharedAddress(shared) + S::kQueryBytes;

  if constexpr (!S::kQueriesInRegisters) {
    CopyQueries<S>(task, head, tile, warp::SharedAddress(shared));
  }
  for (int i = 0; i + 1 < S::kStages; ++i) {
    if (i < steps) {
      CopyKeys<S>(task, head, first + i * S::kKeys, stages + i * 2 * S::kTileBytes);
    }
    warp::CommitCopies();
  }
  QueryRows<S> rows;
  rows.Begin(task, head, tile, warp::SharedAddress(shared));
  // The last tile sees every slot.
  const bool norms = task.by_value_norm && tile == task.tiles - 1;

  int stage = 0;
  for (int i = 0; i < steps; ++i) {
    warp::WaitCopies<S::kStages - 2>();
    __syncthreads();
    const int next = i + S::kStages - 1;
    if (next < steps) {
      CopyKeys<S>(task, head, first + next * S::kKeys,
                  stages + (stage == 0 ? S::kStages - 1 : stage - 1) * 2 * S::kTileBytes);
    }
    warp::CommitCopies();
    const int key = first + i * S::kKeys;
    rows.Add(stages + stage * 2 * S::kTileBytes, key);
    if (norms) {
      WriteNorms<S>(task, head, key, shared + S::kQueryBytes + (2 * stage + 1) * S::kTileBytes);
    }
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
  }

  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = rows.sum[i];
    sum += __shfl_xor_sync(warp::kAll, sum, 1);
    sum += __shfl_xor_sync(warp::kAll, sum, 2);
    if (rows.position[i] < 0) continue;
    const int64_t at =
        static_cast<int64_t>(unit) * S::kQueries + threadIdx.x / 32 * 16 + lane / 4 + 8 * i;
    if (lane % 4 == 0) task.weight[at] = {rows.most[i], sum};
    float* to = task.partial + at * S::kDim + lane % 4 * 2;
#pragma unroll
    for (int block = 0; block < 2 * S::kSteps; ++block) {
      *reinterpret_cast<float2*>(to + block * 8) = {rows.result[block][2 * i],
                                                    rows.result[block][2 * i + 1]};
    }
  }
}

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_SCORED_RUNS_CUH_
