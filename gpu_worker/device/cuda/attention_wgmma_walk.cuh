// How thread blocks of the Hopper kernel share the work. Either whole tiles of rows, those that see
// most keys first, or, where tiles are too few for that to come out even, the same amount for every
// thread block, cut anywhere between two tiles of keys ("stream-K", Osama et al., 2023); the parts
// of a cut tile are merged by another kernel.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_WGMMA_WALK_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_WGMMA_WALK_CUH_

#include <cstdint>

#include "gpu_worker/device/cuda/attention_task.cuh"

namespace tessera::cuda::attention {

// A tile of rows and the tiles of keys begin..end - 1, worked through from the last to the first.
struct Segment {
  int32_t row_tile = 0;
  int32_t kv_head = 0;
  int32_t begin = 0;
  int32_t end = 0;
  int32_t slot = -1;  // of the workspace, for a part of the tile's keys
};

// Tiles of keys that a tile of rows sees; row tiles are counted from the last one on.
template <int kTileRows, int kTileKeys>
__device__ int32_t SeenTiles(const Task& task, int32_t from_last) {
  if (from_last == 0) return task.last_position / kTileKeys + 1;
  const int32_t last_row = (task.row_tiles - from_last) * kTileRows - 1;
  return task.positions[last_row / task.group] / kTileKeys + 1;
}

// What a tile of rows costs beside its tiles of keys, as if it were so many of them.
constexpr int kTileUnits = 2;

// Work is counted in units: a tile of rows is kTileUnits and one for each tile of keys. Units are
// numbered by row tile, from the last one, then by KV head; begins[i] is the sum of the units of
// one KV head's tiles before the i-th, for i up to row_tiles.
struct EvenWork {
  const int32_t* begins;
  int32_t row_tiles;
  int32_t kv_heads;
  int32_t blocks;  // thread blocks

  // First unit of a thread block.
  __device__ int32_t First(int32_t block) const {
    return static_cast<int32_t>(static_cast<int64_t>(begins[row_tiles]) * kv_heads * block /
                                blocks);
  }

  // The thread block that has a unit.
  __device__ int32_t BlockOf(int32_t unit) const {
    const int64_t all = static_cast<int64_t>(begins[row_tiles]) * kv_heads;
    return static_cast<int32_t>(((static_cast<int64_t>(unit) + 1) * blocks - 1) / all);
  }

  // The segment of a thread block's units from unit `at` to `end` in the i-th row tile, which `at`
  // lies in. Moves `at` to the segment's end. Begin is end for units without a tile of keys.
  __device__ Segment Cut(int32_t i, int32_t block, int32_t end, int32_t* at) const {
    const int32_t units = begins[i + 1] - begins[i];
    const int32_t in_row_tile = *at - begins[i] * kv_heads;
    const int32_t head = in_row_tile / units;
    const int32_t from = in_row_tile - head * units;
    const int32_t to = min(units, from + end - *at);
    *at += to - from;
    Segment segment = {row_tiles - 1 - i, head, max(from - kTileUnits, 0), to - kTileUnits, -1};
    // A thread block has at most one part that begins a tile and one that does not.
    const bool whole = segment.begin == 0 && segment.end == units - kTileUnits;
    if (!whole) segment.slot = 2 * block + (segment.begin == 0 ? 1 : 0);
    return segment;
  }
};

// All threads: fills begins, in shared memory; the first thread block copies it to memory.
template <int kTileRows, int kTileKeys>
__device__ void CountUnits(const Task& task, int32_t* begins) {
  for (int i = threadIdx.x; i < task.row_tiles; i += blockDim.x) {
    begins[i + 1] = SeenTiles<kTileRows, kTileKeys>(task, i) + kTileUnits;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    int32_t before = 0;
    for (int first = 0; first < task.row_tiles; first += 32) {
      int32_t sum = first + lane < task.row_tiles ? begins[first + lane + 1] : 0;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int32_t lower = __shfl_up_sync(~0u, sum, step);
        if (lane >= step) sum += lower;
      }
      if (first + lane < task.row_tiles) begins[first + lane + 1] = before + sum;
      before += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) begins[0] = 0;
  }
  __syncthreads();
  if (blockIdx.x > 0) return;
  for (int i = threadIdx.x; i <= task.row_tiles; i += blockDim.x) task.begins[i] = begins[i];
}

// The segments of a thread block, one after the other.
template <int kTileRows, int kTileKeys>
class Walk {
 public:
  // begins: of EvenWork, or null to share out whole tiles.
  __device__ Walk(const Task& task, const int32_t* begins) : task_(task) {
    if (!task.even) return;
    work_ = {begins, task.row_tiles, task.kv_heads, static_cast<int32_t>(gridDim.x)};
    at_ = work_.First(blockIdx.x);
    end_ = work_.First(blockIdx.x + 1);
  }

  // False after the last segment.
  __device__ bool Next(Segment* segment) {
    return task_.even ? NextEven(segment) : NextTile(segment);
  }

 private:
  __device__ bool NextEven(Segment* segment) {
    while (at_ < end_) {
      while (at_ >= work_.begins[index_ + 1] * work_.kv_heads) ++index_;
      *segment = work_.Cut(index_, blockIdx.x, end_, &at_);
      if (segment->begin < segment->end) return true;
    }
    return false;
  }

  // Tiles fall in size, so every other round goes the other way.
  __device__ bool NextTile(Segment* segment) {
    const int32_t column = index_ % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
    const int32_t tile = index_ * gridDim.x + column;
    ++index_;
    if (tile >= task_.row_tiles * task_.kv_heads) return false;
    const int32_t from_last = tile / task_.kv_heads;
    *segment = {task_.row_tiles - 1 - from_last, tile % task_.kv_heads, 0,
                SeenTiles<kTileRows, kTileKeys>(task_, from_last), -1};
    return true;
  }

  const Task& task_;
  EvenWork work_{};
  int32_t index_ = 0;  // row tile, or round
  int32_t at_ = 0;
  int32_t end_ = 0;
};

}  // namespace tessera::cuda::attention

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_WGMMA_WALK_CUH_
