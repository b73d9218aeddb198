// Second pass of AttendScored: joins the runs of the first, and sums what each slot was paid.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_SCORED_SUMS_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_SCORED_SUMS_CUH_

#include <cstdint>

#include "gpu_worker/device/cuda/attention_decode.cuh"
#include "gpu_worker/device/cuda/attention_scored_runs.cuh"
#include "gpu_worker/device/cuda/launch.cuh"

namespace tessera::cuda {

// Scores are made transposed, keys by queries: a warp keeps 16 * kKeyTiles keys in registers and
// goes over the queries of all heads of the group, kColumns at a time. Columns are head by head,
// each head's rows filled up to a multiple of eight, so that eight columns have one head.
template <int kDim_, int kKeyTiles_, int kColumns_, int kBuffers_>
struct SumShape {
  static constexpr int kDim = kDim_, kKeyTiles = kKeyTiles_, kColumns = kColumns_;
  static constexpr int kBuffers = kBuffers_;
  static constexpr int kWarps = 8, kThreads = 32 * kWarps;
  static constexpr int kWarpKeys = 16 * kKeyTiles, kKeys = kWarpKeys * kWarps;
  static constexpr int kChunks = kDim / 8;
  static constexpr int kPitch = 16 * (kChunks + (kChunks % 2 == 0 ? 1 : 0));  // as RunShape's
  static constexpr int kSteps = kDim / 16;
  static constexpr int kKeyBytes = kKeys * kPitch;
  static constexpr int kQueryBytes = kColumns * kPitch;
  // A column's log-sum-exp (in powers of two) and position.
  static constexpr int kColumnBytes = kColumns * 8;
  static constexpr int kShared = kKeyBytes + kBuffers * (kQueryBytes + kColumnBytes);
  static_assert(kColumns % 16 == 0 && kThreads % kColumns == 0 && kThreads / kColumns <= 32);
};

// Where the columns lie.
struct Columns {
  int row_tiles;  // of eight rows, of a head
  int tiles;      // of eight columns

  __device__ explicit Columns(const ScoredTask& task)
      : row_tiles((task.rows + 7) / 8), tiles(row_tiles * task.group) {}

  // False: a filling column.
  __device__ bool Query(const ScoredTask& task, int column, int* row, int* head) const {
    *head = column / 8 / row_tiles;
    *row = column / 8 % row_tiles * 8 + column % 8;
    return *head < task.group && *row < task.rows;
  }
};

// The first of a query's runs in weight, and so in partial; the next is `step` later.
template <int kQueries>
__device__ int64_t FirstRun(const ScoredTask& task, int kv_head, int row, int head) {
  const int64_t unit =
      (static_cast<int64_t>(kv_head) * task.tiles + row / task.tile_rows) * task.runs;
  return unit * kQueries + row % task.tile_rows * task.group + head;
}

// A warp joins the runs of one query.
template <int kDim, int kQueries>
__device__ void JoinRuns(const ScoredTask& task, int kv_head, int row, int head) {
  const int lane = threadIdx.x % 32;
  const int64_t first = FirstRun<kQueries>(task, kv_head, row, head);
  constexpr int kVectors = (kDim / 4 + 31) / 32, kAtOnce = 32 / kVectors / 2;
  float top = -INFINITY, sum = 0.0f;
  float4 all[kVectors] = {};
  for (int run = 0; run < task.runs; run += kAtOnce) {
    float2 weights[kAtOnce];
    float4 x[kAtOnce][kVectors] = {};
    float most = top;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int64_t at = first + static_cast<int64_t>(run + j) * kQueries;
      weights[j] = {-INFINITY, 0.0f};
      if (run + j >= task.runs) continue;
      weights[j] = task.weight[at];
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int dim = (i * 32 + lane) * 4;
        if (dim < kDim) x[j][i] = *reinterpret_cast<const float4*>(task.partial + at * kDim + dim);
      }
    }
#pragma unroll
    for (const float2& weight : weights) most = fmaxf(most, weight.x);
    if (most == -INFINITY) continue;
    const float shrink = warp::Exp2(top - most);
    sum *= shrink;
    for (float4& of : all) of = {of.x * shrink, of.y * shrink, of.z * shrink, of.w * shrink};
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const float scale = warp::Exp2(weights[j].x - most);
      sum = fmaf(weights[j].y, scale, sum);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        all[i] = {fmaf(scale, x[j][i].x, all[i].x), fmaf(scale, x[j][i].y, all[i].y),
                  fmaf(scale, x[j][i].z, all[i].z), fmaf(scale, x[j][i].w, all[i].w)};
      }
    }
    top = most;
  }
  const float scale = 1.0f / sum;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int dim = (i * 32 + lane) * 4;
    if (dim >= kDim) continue;
    *reinterpret_cast<uint2*>(task.out + row * task.out_stride +
                              (kv_head * task.group + head) * kDim +
                              dim) = {warp::Pack(all[i].x * scale, all[i].y * scale),
                                      warp::Pack(all[i].z * scale, all[i].w * scale)};
  }
}

// Starts the copies of the columns from `first` on, as one group.
template <typename S>
__device__ void CopyColumns(const ScoredTask& task, const Columns& columns, int kv_head, int first,
                            uint32_t to) {
  for (int chunk = threadIdx.x; chunk < S::kColumns * S::kChunks; chunk += S::kThreads) {
    const int column = chunk / S::kChunks;
    int row, head;
    const bool real = columns.Query(task, first + column, &row, &head);
    const __nv_bfloat16* from = real ? task.q + row * task.q_stride +
                                           (kv_head * task.group + head) * S::kDim +
                                           chunk % S::kChunks * 8
                                     : task.q;
    warp::CopyAsync(to + column * S::kPitch + chunk % S::kChunks * 16, from, real);
  }
  warp::CommitCopies();
}

// Log-sum-exp and position of the columns from `first` on; some neighbouring lanes for each.
template <typename S, int kQueries>
__device__ void FindColumns(const ScoredTask& task, const Columns& columns, int kv_head, int first,
                            float* log_sum, int* position) {
  constexpr int kLanes = S::kThreads / S::kColumns;
  const int column = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  int row, head;
  const bool real = columns.Query(task, first + column, &row, &head);
  const int64_t at = real ? FirstRun<kQueries>(task, kv_head, row, head) : 0;
  const int runs = real ? task.runs : 0;
  constexpr int kAtOnce = 4;
  float top = -INFINITY, sum = 0.0f;
  for (int run = lane; run < runs; run += kLanes * kAtOnce) {
    float2 weights[kAtOnce];
    float most = top;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t next = run + i * kLanes;
      weights[i] = {-INFINITY, 0.0f};
      if (next < runs) weights[i] = task.weight[at + next * kQueries];
    }
#pragma unroll
    for (const float2& weight : weights) most = fmaxf(most, weight.x);
    if (most == -INFINITY) continue;
    sum *= warp::Exp2(top - most);
#pragma unroll
    for (const float2& weight : weights) sum = fmaf(weight.y, warp::Exp2(weight.x - most), sum);
    top = most;
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const float other_top = __shfl_xor_sync(warp::kAll, top, step);
    const float other_sum = __shfl_xor_sync(warp::kAll, sum, step);
    const float most = fmaxf(top, other_top);
    if (most != -INFINITY) {
      sum = sum * warp::Exp2(top - most) + other_sum * warp::Exp2(other_top - most);
    }
    top = most;
  }
  if (lane != 0) return;
  log_sum[column] = real ? top + log2f(sum) : INFINITY;
  position[column] = real ? task.positions[row] : -1;
}

// A warp's keys and what they were paid. A lane has keys g and g + 8 of each tile of 16.
template <typename S>
struct KeySums {
  uint32_t keys[S::kKeyTiles][S::kSteps][4];
  float head_sum[S::kKeyTiles][2];  // over some rows of the head at hand
  float paid[S::kKeyTiles][2];      // of the heads before

  // The warp's keys begin at `from` in shared memory.
  __device__ void Begin(uint32_t from) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < S::kKeyTiles; ++tile) {
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        const int row = tile * 16 + lane % 16;
        warp::LoadMatrices(from + row * S::kPitch + lane / 16 * 16 + step * 32, keys[tile][step]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) head_sum[tile][i] = paid[tile][i] = 0.0f;
    }
  }

  // scores[tile][pair] = the keys times 16 columns in shared memory.
  __device__ void Scores(uint32_t queries, float (&scores)[S::kKeyTiles][2][4]) const {
    const int lane = threadIdx.x % 32;
    queries += (lane % 8 + lane / 16 * 8) * S::kPitch + lane / 8 % 2 * 16;
#pragma unroll
    for (int tile = 0; tile < S::kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[tile][0][i] = scores[tile][1][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t b[4];
      warp::LoadMatrices(queries + step * 32, b);
#pragma unroll
      for (int tile = 0; tile < S::kKeyTiles; ++tile) {
        warp::Mma(scores[tile][0], keys[tile][step], b[0], b[1]);
        warp::Mma(scores[tile][1], keys[tile][step], b[2], b[3]);
      }
    }
  }

  // Adds the probabilities of eight columns (their squares) to a tile's sums. kMasked: some column
  // does not see all of the keys, the first of which is `key` for this lane.
  template <bool kMasked>
  __device__ void Add(const float (&scores)[4], int tile, float2 log_sum, int2 position, int key,
                      bool squares) {
    const float scale = warp::kLog2E * rsqrtf(static_cast<float>(S::kDim));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float p = warp::Exp2(fmaf(scores[i], scale, i % 2 == 0 ? -log_sum.x : -log_sum.y));
      if (kMasked && key + tile * 16 + i / 2 * 8 > (i % 2 == 0 ? position.x : position.y)) {
        p = 0.0f;
      }
      head_sum[tile][i / 2] =
          squares ? fmaf(p, p, head_sum[tile][i / 2]) : head_sum[tile][i / 2] + p;
    }
  }

  // The last rows of a head are in.
  __device__ void EndHead(int tile, float per_row, bool squares) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = head_sum[tile][i];
      sum += __shfl_xor_sync(warp::kAll, sum, 1);
      sum += __shfl_xor_sync(warp::kAll, sum, 2);
      paid[tile][i] += squares ? sqrtf(sum * per_row) : sum * per_row;
      head_sum[tile][i] = 0.0f;
    }
  }
};

// Columns in shared memory.
struct ColumnBuffer {
  uint32_t queries;
  const float* log_sum;
  const int* position;
};

// Eight columns, the column_tile-th of all, of which `at` is the first in the buffer, for a tile of
// a warp whose first key is `key`.
template <typename S>
__device__ void AddEight(const ScoredTask& task, const Columns& columns, int column_tile, int at,
                         int key, bool masked, const ColumnBuffer& buffer, int tile,
                         const float (&scores)[4], KeySums<S>& sums) {
  const int lane = threadIdx.x % 32;
  at += lane % 4 * 2;
  const float2 log = *reinterpret_cast<const float2*>(buffer.log_sum + at);
  if (masked) {
    const int2 seen = *reinterpret_cast<const int2*>(buffer.position + at);
    sums.template Add<true>(scores, tile, log, seen, key + lane / 4, task.by_value_norm);
  } else {
    sums.template Add<false>(scores, tile, log, {0, 0}, 0, task.by_value_norm);
  }
  if (column_tile % columns.row_tiles == columns.row_tiles - 1) {
    sums.EndHead(tile, 1.0f / static_cast<float>(task.rows), task.by_value_norm);
  }
}

// The columns of a buffer, from column tile `first` on, for a warp whose first key is `key`.
template <typename S>
__device__ void AddColumns(const ScoredTask& task, const Columns& columns, int first, int key,
                           const ColumnBuffer& buffer, KeySums<S>& sums) {
  const bool masked = key + S::kWarpKeys - 1 > task.positions[0];
  const int tiles = min(S::kColumns / 8, columns.tiles - first);
  for (int pair = 0; 2 * pair < tiles; ++pair) {
    float scores[S::kKeyTiles][2][4];
    sums.Scores(buffer.queries + pair * 16 * S::kPitch, scores);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 2 * pair + half;
      if (i >= tiles) return;
#pragma unroll
      for (int tile = 0; tile < S::kKeyTiles; ++tile) {
        AddEight<S>(task, columns, first + i, i * 8, key, masked, buffer, tile, scores[tile][half],
                    sums);
      }
    }
  }
}

// A block for each kKeys keys (x) of each KV head (y). kQueries: of the first pass.
template <typename S, int kQueries>
__global__ void __launch_bounds__(S::kThreads, 2)
    ScoredSums(const __grid_constant__ ScoredTask task) {
  extern __shared__ __align__(16) char shared[];
  const int kv_head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int key = blockIdx.x * S::kKeys + warp * S::kWarpKeys;  // the warp's first
  const uint32_t base = warp::SharedAddress(shared);
  const uint32_t queries = base;
  float* log_sums = reinterpret_cast<float*>(shared + S::kKeyBytes + S::kBuffers * S::kQueryBytes);
  int* positions = reinterpret_cast<int*>(log_sums + S::kBuffers * S::kColumns);
  const Columns columns(task);

  // Keys and the first queries do not depend on the first pass.
  static_assert(KvView::kBlockSlots % S::kWarpKeys == 0);
  const uint32_t keys = base + S::kBuffers * S::kQueryBytes + warp * S::kWarpKeys * S::kPitch;
  const int real = (task.last + 1 - key) * S::kChunks;
  const __nv_bfloat16* from = task.kv.k + (real > 0 ? task.Row(kv_head, key) * S::kDim : 0);
  for (int chunk = lane; chunk < S::kWarpKeys * S::kChunks; chunk += 32) {
    warp::CopyAsync(keys + chunk / S::kChunks * S::kPitch + chunk % S::kChunks * 16,
                    from + (chunk < real ? chunk * 8 : 0), chunk < real);
  }
  CopyColumns<S>(task, columns, kv_head, 0, queries);
  AwaitLast();
  LetNextStart();

  KeySums<S> sums;
  for (int first = 0, buffer = 0; first < columns.tiles * 8; first += S::kColumns) {
    if (first > 0 && S::kBuffers == 1) {
      __syncthreads();  // all have done with the columns before
      CopyColumns<S>(task, columns, kv_head, first, queries);
    }
    float* log_sum = log_sums + buffer * S::kColumns;
    int* position = positions + buffer * S::kColumns;
    FindColumns<S, kQueries>(task, columns, kv_head, first, log_sum, position);
    warp::WaitCopies<0>();
    __syncthreads();
    const ColumnBuffer now = {queries + buffer * S::kQueryBytes, log_sum, position};
    if (S::kBuffers > 1) {
      buffer ^= 1;
      if (first + S::kColumns < columns.tiles * 8) {
        CopyColumns<S>(task, columns, kv_head, first + S::kColumns,
                       queries + buffer * S::kQueryBytes);
      }
    }
    if (first == 0) sums.Begin(keys);
    if (key <= task.last) AddColumns<S>(task, columns, first / 8, key, now, sums);
  }

  const int64_t slots = task.last + 1;
#pragma unroll
  for (int i = 0; i < 2 * S::kKeyTiles; ++i) {
    const int slot = key + i * 8 + lane / 4;
    if (lane % 4 != 0 || slot > task.last) continue;
    const int64_t at = kv_head * slots + slot;
    task.paid[at] = sums.paid[i / 2][i % 2] * (task.by_value_norm ? task.norm[at] : 1.0f);
  }
  // This block's share of the queries to join.
  const int64_t blocks = static_cast<int64_t>(gridDim.x) * gridDim.y * S::kWarps;
  const int64_t items = static_cast<int64_t>(task.rows) * task.group * gridDim.y;
  for (int64_t i = (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * S::kWarps + warp;
       i < items; i += blocks) {
    const int head = static_cast<int>(i % (task.group * gridDim.y));
    JoinRuns<S::kDim, kQueries>(task, head / task.group,
                                static_cast<int>(i / (task.group * gridDim.y)), head % task.group);
  }
}

// Adds what all KV heads paid to scores, in the order of heads.
__global__ void __launch_bounds__(128) AddPaid(const __grid_constant__ ScoredTask task) {
  const int slot = blockIdx.x * 128 + threadIdx.x;
  LetNextStart();
  AwaitLast();
  if (slot > task.last) return;
  const int64_t slots = task.last + 1;
  float sum = 0.0f;
#pragma unroll 8
  for (int head = 0; head < task.kv.kv_heads; ++head) sum += task.paid[head * slots + slot];
  const int heads = task.kv.kv_heads * task.group;
  task.scores[slot] += task.by_value_norm ? sum : sum / static_cast<float>(heads);
}

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_SCORED_SUMS_CUH_
