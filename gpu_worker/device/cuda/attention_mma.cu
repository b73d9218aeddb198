// Attention with mma.sync, for every device from compute capability 8.0 on and every head_dim.
// While K is multiplied, V is on its way from memory, and while V is, the next K (FlashAttention-2,
// Dao, 2023); two thread blocks of a multiprocessor hide each other's waits.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "gpu_worker/device/cuda/attention.h"
#include "gpu_worker/device/cuda/attention_merge.cuh"
#include "gpu_worker/device/cuda/attention_mma_tile.cuh"
#include "gpu_worker/device/cuda/attention_task.cuh"
#include "gpu_worker/device/cuda/check.h"

namespace tessera::cuda {
namespace attention {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kTileKeys = KvView::kBlockSlots;  // so that a tile is one block of the table

template <int kHeadDim>
struct MmaShape {
  static constexpr int kRowMmas = kHeadDim > 128 ? 1 : 2;  // what the registers hold
  static constexpr int kWarpRows = 16 * kRowMmas;
  static constexpr int kTileRows = kWarps * kWarpRows;
  static constexpr int kChunks = kHeadDim / 8;  // of 16 bytes in a row
  using Tile = MmaTile<kHeadDim, kRowMmas>;
  static constexpr int kSharedBytes = (kTileRows + 2 * kTileKeys) * Tile::kPitch;
};

// A tile and one part of its keys. Items are started in order: the last rows first, since they see
// most keys.
struct Item {
  int32_t row_tile;
  int32_t kv_head;
  int32_t split;
};

__device__ Item ItemOf(const Task& task, int32_t index) {
  const int32_t tile = index / task.splits;
  return {task.row_tiles - 1 - tile / task.kv_heads, tile % task.kv_heads, index % task.splits};
}

__device__ int32_t SlotOf(const Task& task, const Item& item) {
  return (item.row_tile * task.kv_heads + item.kv_head) * task.splits + item.split;
}

// Copies the tile's rows of q to shared memory; rows after the last are zero.
template <int kHeadDim>
__device__ void CopyQuery(const Task& task, const Item& item, uint32_t to) {
  using Shape = MmaShape<kHeadDim>;
  for (int i = threadIdx.x; i < Shape::kTileRows * Shape::kChunks; i += kThreads) {
    const int row = i / Shape::kChunks;
    const int chunk = i % Shape::kChunks;
    const int32_t packed = item.row_tile * Shape::kTileRows + row;
    const bool outside = packed >= task.rows;
    const int32_t at = outside ? 0 : packed;
    const int64_t head = static_cast<int64_t>(item.kv_head) * task.group + at % task.group;
    const auto* from = task.q + at / task.group * task.q_stride + head * kHeadDim + chunk * 8;
    CopyAsync16(to + row * Shape::Tile::kPitch + chunk * 16, from, outside);
  }
}

// Copies one tile of K or V to shared memory; slots after `last` are zero.
template <int kHeadDim>
__device__ void CopyKeys(const Task& task, const __nv_bfloat16* from, int kv_head, int32_t tile,
                         int32_t last, uint32_t to) {
  using Shape = MmaShape<kHeadDim>;
  const int64_t block = task.blocks == nullptr ? tile : task.blocks[tile];
  const int64_t first = kv_head * task.head_slots + block * kTileKeys;
  from += first * kHeadDim;
  const int seen = last + 1 - tile * kTileKeys;
#pragma unroll
  for (int i = 0; i < kTileKeys * Shape::kChunks / kThreads; ++i) {
    const int chunk = i * kThreads + threadIdx.x;
    const int row = chunk / Shape::kChunks;
    const bool outside = row >= seen;
    const int column = chunk % Shape::kChunks;
    CopyAsync16(to + row * Shape::Tile::kPitch + column * 16, from + (outside ? 0 : chunk * 8),
                outside);
  }
}

// Writes the warp's rows to out, by way of the shared memory that held their q.
template <int kHeadDim>
__device__ void WriteRows(const Task& task, const Item& item, int32_t first_row, char* shared,
                          typename MmaShape<kHeadDim>::Tile& tile) {
  using Shape = MmaShape<kHeadDim>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < Shape::kRowMmas; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      char* row = shared + (m * 16 + i * 8 + lane / 4) * Shape::Tile::kPitch;
      const float scale = 1 / tile.total[m][i];
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d) {
        *reinterpret_cast<uint32_t*>(row + d * 16 + lane % 4 * 4) =
            PackBf16(tile.sums[m][d][2 * i] * scale, tile.sums[m][d][2 * i + 1] * scale);
      }
    }
  }
  __syncwarp();
  for (int i = lane; i < Shape::kWarpRows * Shape::kChunks; i += 32) {
    const int row = i / Shape::kChunks;
    const int chunk = i % Shape::kChunks;
    const int32_t packed = first_row + row;
    if (packed >= task.rows) break;
    const int64_t head = static_cast<int64_t>(item.kv_head) * task.group + packed % task.group;
    auto* to = task.out + packed / task.group * task.out_stride + head * kHeadDim + chunk * 8;
    *reinterpret_cast<uint4*>(to) =
        *reinterpret_cast<const uint4*>(shared + row * Shape::Tile::kPitch + chunk * 16);
  }
}

// Writes the warp's rows, from row first_row of the tile on, to the workspace.
template <int kHeadDim>
__device__ void WritePartial(const Task& task, int64_t slot, int first_row,
                             typename MmaShape<kHeadDim>::Tile& tile) {
  using Shape = MmaShape<kHeadDim>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < Shape::kRowMmas; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = slot * Shape::kTileRows + first_row + m * 16 + i * 8 + lane / 4;
      float* to = task.partial + row * kHeadDim + lane % 4 * 2;
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d) {
        *reinterpret_cast<float2*>(to + d * 8) = {tile.sums[m][d][2 * i],
                                                  tile.sums[m][d][2 * i + 1]};
      }
      if (lane % 4 == 0) task.partial_state[row] = {tile.max[m][i], tile.total[m][i]};
    }
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads) AttendMma(const __grid_constant__ Task task) {
  using Shape = MmaShape<kHeadDim>;
  extern __shared__ __align__(16) char shared[];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const uint32_t q = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t k = q + Shape::kTileRows * Shape::Tile::kPitch;
  const uint32_t v = k + kTileKeys * Shape::Tile::kPitch;
  const uint32_t warp_q = q + warp * Shape::kWarpRows * Shape::Tile::kPitch;

  // The keys of the item: those that the tile's last row sees, or one part of them.
  const Item item = ItemOf(task, blockIdx.x);
  const int32_t last_row = min((item.row_tile + 1) * Shape::kTileRows, task.rows) - 1;
  const int32_t last_key = task.positions[last_row / task.group];
  int32_t tile = 0;
  int32_t end = last_key / kTileKeys + 1;
  if (task.splits > 1) {
    tile = item.split * task.split_tiles;
    end = min(end, tile + task.split_tiles);
  }

  // The rows' positions; rows after the last are as the last.
  typename Shape::Tile rows;
  rows.Clear();
  const int32_t first_row = item.row_tile * Shape::kTileRows + warp * Shape::kWarpRows;
#pragma unroll
  for (int m = 0; m < Shape::kRowMmas; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t row = min(first_row + m * 16 + i * 8 + lane / 4, last_row);
      rows.position[m][i] = task.positions[row / task.group];
    }
  }
  const int32_t least = task.positions[min(first_row, last_row) / task.group];
  const int32_t most = task.positions[min(first_row + Shape::kWarpRows - 1, last_row) / task.group];

  if (tile < end) {
    CopyQuery<kHeadDim>(task, item, q);
    CopyKeys<kHeadDim>(task, task.k, item.kv_head, tile, last_key, k);
    CommitCopies();
  }
  for (; tile < end; ++tile) {
    WaitForCopies();
    __syncthreads();
    CopyKeys<kHeadDim>(task, task.v, item.kv_head, tile, last_key, v);
    CommitCopies();
    const int32_t first_key = tile * kTileKeys;
    const bool seen = first_key <= most;
    if (seen) rows.Score(warp_q, k, lane);
    WaitForCopies();
    __syncthreads();
    if (tile + 1 < end) {
      CopyKeys<kHeadDim>(task, task.k, item.kv_head, tile + 1, last_key, k);
      CommitCopies();
    }
    if (seen) {
      if (first_key + kTileKeys - 1 > least) rows.Mask(first_key, lane);
      rows.Softmax(task.scale);
      rows.AddValues(v, lane);
    }
  }

  rows.JoinTotals();
  if (task.splits > 1) {
    WritePartial<kHeadDim>(task, SlotOf(task, item), warp * Shape::kWarpRows, rows);
  } else {
    char* warp_shared = shared + warp * Shape::kWarpRows * Shape::Tile::kPitch;
    WriteRows<kHeadDim>(task, item, first_row, warp_shared, rows);
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kMergeThreads) MergeSplits(const __grid_constant__ Task task) {
  constexpr int kTileRows = MmaShape<kHeadDim>::kTileRows;
  __shared__ int32_t slots[kMostParts];
  const int32_t kv_head = blockIdx.y;
  const int32_t first_row = blockIdx.x * kMergeRows;
  const int32_t first_slot = SlotOf(task, {first_row / kTileRows, kv_head, 0});
  for (int i = threadIdx.x; i < task.splits; i += kMergeThreads) slots[i] = first_slot + i;
  __syncthreads();
  const int32_t packed = first_row + threadIdx.x / 32;
  if (packed >= task.rows) return;
  MergeRow<kHeadDim>(task, kv_head, packed, kTileRows, packed % kTileRows, slots, task.splits);
}

// Cuts the task for thread blocks of which `slots` run at once: sets row_tiles and the splits.
void Plan(int tile_rows, int slots, Task* task) {
  // Time in tiles of keys: that of the waves of thread blocks, and what a split costs to merge.
  constexpr int kMergeTiles = 4;
  task->row_tiles = (task->rows + tile_rows - 1) / tile_rows;
  const int tiles = task->row_tiles * task->kv_heads;
  const int key_tiles = task->last_position / kTileKeys + 1;
  const int most = std::min({MostSlots() / tiles, key_tiles, kMostParts});
  int best = key_tiles * ((tiles + slots - 1) / slots);
  for (int splits = 2; splits <= most; ++splits) {
    const int split_tiles = (key_tiles + splits - 1) / splits;
    const int waves = (tiles * splits + slots - 1) / slots;
    const int cost = split_tiles * waves + kMergeTiles;
    if (cost >= best) continue;
    best = cost;
    task->splits = splits;
    task->split_tiles = split_tiles;
  }
}

template <int kHeadDim>
void LaunchMmaOf(Task task, cudaStream_t stream) {
  using Shape = MmaShape<kHeadDim>;
  Plan(Shape::kTileRows, 2 * Multiprocessors(), &task);
  CUDA_OR_DIE("attend",
              cudaFuncSetAttribute(AttendMma<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   Shape::kSharedBytes));
  const int items = task.row_tiles * task.kv_heads * task.splits;
  AttendMma<kHeadDim><<<items, kThreads, Shape::kSharedBytes, stream>>>(task);
  CUDA_OR_DIE("attend", cudaGetLastError());
  if (task.splits == 1) return;
  const dim3 grid((task.rows + kMergeRows - 1) / kMergeRows, task.kv_heads);
  MergeSplits<kHeadDim><<<grid, kMergeThreads, 0, stream>>>(task);
  CUDA_OR_DIE("attend", cudaGetLastError());
}

}  // namespace

int Multiprocessors() {
  int device = 0;
  int count = 0;
  CUDA_OR_DIE("attend", cudaGetDevice(&device));
  CUDA_OR_DIE("attend", cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

int MostSlots() { return 2 * Multiprocessors(); }

void LaunchMma(Task task, int head_dim, cudaStream_t stream) {
  switch (head_dim) {
    case 64:
      return LaunchMmaOf<64>(task, stream);
    case 80:
      return LaunchMmaOf<80>(task, stream);
    case 96:
      return LaunchMmaOf<96>(task, stream);
    case 128:
      return LaunchMmaOf<128>(task, stream);
    case 256:
      return LaunchMmaOf<256>(task, stream);
  }
  std::fprintf(stderr, "event=attend_failed head_dim=%d error=\"head_dim not supported\"\n",
               head_dim);
  std::abort();
}

Task MakeTask(Bf16Rows q, const int32_t* positions, int32_t last_position, const KvView& kv,
              Bf16Rows out, void* workspace) {
  const int heads = static_cast<int>(q.cols / kv.head_dim);
  Task task;
  task.q = q.data;
  task.q_stride = q.stride;
  task.out = out.data;
  task.out_stride = out.stride;
  task.positions = positions;
  task.k = kv.k;
  task.v = kv.v;
  task.blocks = kv.blocks;
  task.head_slots = kv.head_slots;
  task.group = heads / kv.kv_heads;
  task.rows = static_cast<int32_t>(q.rows) * task.group;
  task.last_position = last_position;
  task.kv_heads = kv.kv_heads;
  task.scale = 1.4426950408889634f / std::sqrt(static_cast<float>(kv.head_dim));
  const int64_t slot_rows = static_cast<int64_t>(MostSlots()) * kMostTileRows;
  task.partial = static_cast<float*>(workspace);
  task.partial_state = reinterpret_cast<float2*>(task.partial + slot_rows * kv.head_dim);
  task.begins = reinterpret_cast<int32_t*>(task.partial_state + slot_rows);
  return task;
}

}  // namespace attention

size_t AttendWorkspace(int head_dim) {
  const size_t slot_rows = static_cast<size_t>(attention::MostSlots()) * attention::kMostTileRows;
  return slot_rows * (head_dim * sizeof(float) + sizeof(float2)) +
         (attention::kMostEvenTiles + 1) * sizeof(int32_t);
}

void Attend(Bf16Rows q, const int32_t* positions, int32_t last_position, const KvView& kv,
            Bf16Rows out, void* workspace, cudaStream_t stream) {
  if (q.rows == 0) return;
  const attention::Task task = attention::MakeTask(q, positions, last_position, kv, out, workspace);
  if (attention::LaunchWgmma(task, kv.head_dim, stream)) return;
  attention::LaunchMma(task, kv.head_dim, stream);
}

}  // namespace tessera::cuda
