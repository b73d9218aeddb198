// Attention for Hopper, after FlashAttention-3 (Shah et al., 2024): one warp of a thread block
// drives the copy engine, two warpgroups of 64 rows each take turns at the tensor cores, so that
// one's softmax runs under the other's products, and in each the softmax of a tile of keys runs
// under the product with V of the tile before. Thread blocks stay and work through several
// segments.
#include <cuda.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "gpu_worker/device/cuda/attention_hopper.cuh"
#include "gpu_worker/device/cuda/attention_merge.cuh"
#include "gpu_worker/device/cuda/attention_task.cuh"
#include "gpu_worker/device/cuda/attention_wgmma_load.cuh"
#include "gpu_worker/device/cuda/attention_wgmma_tile.cuh"
#include "gpu_worker/device/cuda/attention_wgmma_walk.cuh"
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/launch.cuh"

namespace tessera::cuda::attention {
namespace {

template <int kBuffers>
__device__ void ReleaseByWarp(Ring<kBuffers>& ring) {
  if (threadIdx.x % 32 == 0) ring.Release();
  ring.Next();
}

// The scores of the next tile of keys and the values of the one before, in this warpgroup's turn,
// then the softmax of the scores while the other warpgroup has its turn.
template <int kHeadDim, bool kMasked>
__device__ void Step(const Task& task, int consumer, uint32_t q, int32_t tile,
                     Rings<kHeadDim>& rings, GroupTile<kHeadDim>& rows) {
  rings.k.WaitFull();
  NamedSync(kTurnBarrier + consumer, kConsumers * kGroup);
  rows.Score(q, rings.k.Data());
  rings.v.WaitFull();
  rows.AddValues(rings.v.Data());
  NamedArrive(kTurnBarrier + (consumer ^ 1), kConsumers * kGroup);
  WgmmaWait<1>();
  Pin(rows.scores);
  ReleaseByWarp(rings.k);
  if constexpr (kMasked) rows.Mask(tile * kTileKeys);
  rows.template Softmax<kMasked>(task.scale);
  WgmmaWait<0>();
  Pin(rows.sums);
  Pin(rows.probabilities);
  ReleaseByWarp(rings.v);
  rows.RoundProbabilities();
  rows.Rescale();
}

// All tiles of keys of a segment; sums and total are those of its rows then.
template <int kHeadDim>
__device__ void SumSegment(const Task& task, const Segment& segment, int consumer, int32_t least,
                           Rings<kHeadDim>& rings, GroupTile<kHeadDim>& rows) {
  const uint32_t q = rings.q.Data() + consumer * Shape<kHeadDim>::kGroupQuery;
  int32_t tile = segment.end - 1;
  rings.q.WaitFull();
  rings.k.WaitFull();
  rows.Score(q, rings.k.Data());
  WgmmaWait<0>();
  Pin(rows.scores);
  ReleaseByWarp(rings.k);
  rows.Mask(tile * kTileKeys);
  rows.template Softmax<true>(task.scale);
  rows.RoundProbabilities();
  --tile;
  for (; tile >= segment.begin && (tile + 1) * kTileKeys - 1 > least; --tile) {
    Step<kHeadDim, true>(task, consumer, q, tile, rings, rows);
  }
  for (; tile >= segment.begin; --tile) {
    Step<kHeadDim, false>(task, consumer, q, tile, rings, rows);
  }
  rings.v.WaitFull();
  rows.AddValues(rings.v.Data());
  WgmmaWait<0>();
  Pin(rows.sums);
  ReleaseByWarp(rings.v);
  rows.JoinTotals();
}

// Writes the warp's 16 rows, from `first` packed row on, by way of the shared memory of their q.
template <int kHeadDim>
__device__ void WriteOut(const Task& task, const Segment& segment, int32_t first,
                         uint32_t group_query, GroupTile<kHeadDim>& rows) {
  constexpr int kChunks = kHeadDim / 8;
  const int lane = threadIdx.x % 32;
  const int warp_row = threadIdx.x / 32 % 4 * 16;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + half * 8 + lane / 4;
    const float scale = 1 / rows.total[half];
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const float* pair = &rows.sums[chunk * 4 + half * 2];
      const uint32_t packed = PackBf16(pair[0] * scale, pair[1] * scale);
      asm volatile("st.shared.u32 [%0], %1;" ::"r"(QueryChunk<kHeadDim>(group_query, row, chunk) +
                                                   lane % 4 * 4),
                   "r"(packed)
                   : "memory");
    }
  }
  __syncwarp();
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const int32_t packed = first + row;
    if (packed >= task.rows) break;
    const int64_t head = static_cast<int64_t>(segment.kv_head) * task.group + packed % task.group;
    uint4 value;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(QueryChunk<kHeadDim>(group_query, warp_row + row, chunk))
                 : "memory");
    auto* to = task.out + packed / task.group * task.out_stride + head * kHeadDim + chunk * 8;
    *reinterpret_cast<uint4*>(to) = value;
  }
  __syncwarp();
}

// Writes the thread's rows, from `row` of the tile on, to the workspace; only those of the task.
template <int kHeadDim>
__device__ void WritePartial(const Task& task, const Segment& segment, int row,
                             GroupTile<kHeadDim>& rows) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int in_tile = row + half * 8;
    if (segment.row_tile * kTileRows + in_tile >= task.rows) break;
    const int64_t slot_row = segment.slot * kTileRows + in_tile;
    float* to = task.partial + slot_row * kHeadDim + lane % 4 * 2;
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      *reinterpret_cast<float2*>(to + d * 8) = {rows.sums[d * 4 + half * 2],
                                                rows.sums[d * 4 + half * 2 + 1]};
    }
    if (lane % 4 == 0) task.partial_state[slot_row] = {rows.max[half], rows.total[half]};
  }
}

struct Positions {
  int32_t row[2];  // of the thread's rows
  int32_t least;   // of the warpgroup's rows

  // Rows after the last are as the last.
  __device__ static Positions Of(const Task& task, const Segment& segment, int consumer,
                                 int thread_row) {
    const int32_t first = segment.row_tile * kTileRows;
    const auto at = [&](int row) {
      return task.positions[min(first + row, task.rows - 1) / task.group];
    };
    return {{at(thread_row), at(thread_row + 8)}, at(consumer * kGroupRows)};
  }
};

template <int kHeadDim>
__device__ void Consume(const Task& task, int consumer, Rings<kHeadDim>& rings) {
  const int warp_row = threadIdx.x / 32 % 4 * 16;
  const int thread_row = consumer * kGroupRows + warp_row + threadIdx.x % 32 / 4;
  if (consumer == 0) NamedArrive(kTurnBarrier, kConsumers * kGroup);
  GroupTile<kHeadDim> rows;
  Walk<kTileRows, kTileKeys> walk(task, rings.begins);
  Segment next;
  Positions next_positions;
  bool more = walk.Next(&next);
  if (more) next_positions = Positions::Of(task, next, consumer, thread_row);
  while (more) {
    const Segment segment = next;
    const int32_t first_row = segment.row_tile * kTileRows;
    const int32_t least = next_positions.least;
    rows.position[0] = next_positions.row[0];
    rows.position[1] = next_positions.row[1];
    rows.Clear();
    more = walk.Next(&next);  // what is loaded for it arrives under the products
    if (more) next_positions = Positions::Of(task, next, consumer, thread_row);
    SumSegment<kHeadDim>(task, segment, consumer, least, rings, rows);
    if (segment.slot >= 0) {
      WritePartial<kHeadDim>(task, segment, thread_row, rows);
    } else {
      NamedSync(kGroupBarrier + consumer, kGroup);  // q is read to its end by all four warps
      WriteOut<kHeadDim>(task, segment, first_row + consumer * kGroupRows + warp_row,
                         rings.q.Data() + consumer * Shape<kHeadDim>::kGroupQuery, rows);
    }
    ReleaseByWarp(rings.q);
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    AttendWgmma(const __grid_constant__ Task task, const __grid_constant__ Maps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char shared[];
  Rings<kHeadDim> rings(shared);
  if (threadIdx.x == 0) {
    rings.Init();
    FetchMap(maps.k);
    FetchMap(maps.v);
    FetchMap(maps.k_tail);
    FetchMap(maps.v_tail);
  }
  if (task.even) CountUnits<kTileRows, kTileKeys>(task, rings.begins);
  __syncthreads();
  const int group = __shfl_sync(~0u, threadIdx.x / kGroup, 0);
  if (group == 0) {
    GiveRegisters<56>();
    if (threadIdx.x == 0) {
      ProduceKeys<kHeadDim>(task, maps, rings);
    } else if (threadIdx.x >= 32) {
      ProduceQueries<kHeadDim>(task, rings);
    }
  } else {
    TakeRegisters<224>();
    cudaTriggerProgrammaticLaunchCompletion();
    Consume<kHeadDim>(task, group - 1, rings);
  }
#else
  __trap();  // code for sm_90 that is not for sm_90a
#endif
}

// A thread block merges kMergeRows rows of a tile, if the tile was cut.
template <int kHeadDim>
__global__ void __launch_bounds__(kMergeThreads)
    MergeEven(const __grid_constant__ Task task, int32_t blocks) {
#if __CUDA_ARCH__ >= 900
  __shared__ int32_t slots[kMostParts];
  cudaGridDependencySynchronize();
  const EvenWork work = {task.begins, task.row_tiles, task.kv_heads, blocks};
  const int32_t from_last = blockIdx.x / task.kv_heads;
  const int32_t kv_head = blockIdx.x % task.kv_heads;
  const int32_t units = task.begins[from_last + 1] - task.begins[from_last];
  const int32_t begin = task.begins[from_last] * task.kv_heads + kv_head * units;
  const int32_t first = work.BlockOf(begin + kTileUnits);  // that has a tile of keys
  const int parts = work.BlockOf(begin + units - 1) - first + 1;
  if (parts == 1) return;

  if (threadIdx.x < parts) {
    const int32_t block = first + threadIdx.x;
    int32_t at = max(begin, work.First(block));
    slots[threadIdx.x] = work.Cut(from_last, block, work.First(block + 1), &at).slot;
  }
  __syncthreads();
  const int row = blockIdx.y * kMergeRows + threadIdx.x / 32;
  const int32_t packed = (task.row_tiles - 1 - from_last) * kTileRows + row;
  if (packed >= task.rows) return;
  MergeRow<kHeadDim>(task, kv_head, packed, kTileRows, row, slots, parts);
#endif
}

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled Encoder() {
  static const EncodeTiled encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    CUDA_OR_DIE("attend", cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                           12000, cudaEnableDefault, &result));
    return reinterpret_cast<EncodeTiled>(function);
  }();
  return encoder;
}

// `slots`: of a block, from its first on, that are not zero.
CUtensorMap MakeMap(const Task& task, const __nv_bfloat16* data, int head_dim, int slots) {
  const int64_t blocks = (task.head_slots + kBlockKeys - 1) / kBlockKeys;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(slots),
                              static_cast<cuuint64_t>(blocks),
                              static_cast<cuuint64_t>(task.kv_heads)};
  const cuuint64_t row_bytes = head_dim * sizeof(__nv_bfloat16);
  const cuuint64_t strides[] = {row_bytes, row_bytes * kBlockKeys, row_bytes * task.head_slots};
  const cuuint32_t box[] = {kRowBytes / 2, kBlockKeys, 1, 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      Encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<__nv_bfloat16*>(data), sizes,
                strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    std::fprintf(stderr, "event=attend_failed error=\"no tensor map\" result=%d\n", result);
    std::abort();
  }
  return map;
}

// Thread blocks among which the work is to be cut evenly, or 0 to share out whole tiles. Counted in
// units, as if all rows saw what the last one sees.
int EvenBlocks(const Task& task, int blocks) {
  constexpr int kMergeUnits = 3;             // what the merge costs
  constexpr int kFewUnits = kTileUnits + 1;  // of a tile that sees least
  if (task.row_tiles > kMostEvenTiles) return 0;
  const int tiles = task.row_tiles * task.kv_heads;
  const int rounds = (tiles + blocks - 1) / blocks;
  if (4 * tiles > 3 * rounds * blocks) return 0;  // few thread blocks are idle in the last round
  const int64_t units = task.last_position / kTileKeys + 1 + kTileUnits;
  if (tiles * units / blocks + kTileUnits + kMergeUnits >= rounds * units) return 0;
  // Every thread block must have a unit.
  const int64_t fewest = task.kv_heads * (units + (task.row_tiles - 1) * kFewUnits);
  return static_cast<int>(std::min<int64_t>({blocks, kMostParts, fewest}));
}

template <int kHeadDim>
void LaunchWgmmaOf(Task task, cudaStream_t stream) {
  using S = Shape<kHeadDim>;
  task.row_tiles = (task.rows + kTileRows - 1) / kTileRows;
  const int tiles = task.row_tiles * task.kv_heads;
  const int even_blocks = EvenBlocks(task, Multiprocessors());
  task.even = even_blocks > 0;
  const int tail = task.last_position % kBlockKeys + 1;
  const Maps maps = {
      .k = MakeMap(task, task.k, kHeadDim, kBlockKeys),
      .v = MakeMap(task, task.v, kHeadDim, kBlockKeys),
      .k_tail = MakeMap(task, task.k, kHeadDim, tail),
      .v_tail = MakeMap(task, task.v, kHeadDim, tail),
      .outside = static_cast<int32_t>((task.head_slots + kBlockKeys - 1) / kBlockKeys)};
  CUDA_OR_DIE("attend",
              cudaFuncSetAttribute(AttendWgmma<kHeadDim>,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes));
  const int grid = task.even ? even_blocks : std::min(Multiprocessors(), tiles);
  AttendWgmma<kHeadDim><<<grid, kThreads, S::kSharedBytes, stream>>>(task, maps);
  CUDA_OR_DIE("attend", cudaGetLastError());
  if (!task.even) return;

  // The merge may be started before the other kernel has ended; it waits for its end itself.
  LaunchOverlapped("attend", MergeEven<kHeadDim>,
                   dim3(tiles, (std::min(kTileRows, task.rows) + kMergeRows - 1) / kMergeRows),
                   dim3(kMergeThreads), 0, stream, task, grid);
}

// Whether the current device is a Hopper and the program holds the kernel's code for it.
bool OnHopper() {
  int device = 0;
  int major = 0;
  CUDA_OR_DIE("attend", cudaGetDevice(&device));
  CUDA_OR_DIE("attend", cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major != 9) return false;
  static const bool compiled = [] {
    cudaFuncAttributes attributes;
    CUDA_OR_DIE("attend", cudaFuncGetAttributes(&attributes, AttendWgmma<128>));
    return attributes.binaryVersion == 90;
  }();
  return compiled;
}

}  // namespace

bool LaunchWgmma(Task task, int head_dim, cudaStream_t stream) {
  if (!OnHopper()) return false;
  switch (head_dim) {
    case 64:
      LaunchWgmmaOf<64>(task, stream);
      return true;
    case 80:
      LaunchWgmmaOf<80>(task, stream);
      return true;
    case 96:
      LaunchWgmmaOf<96>(task, stream);
      return true;
    case 128:
      LaunchWgmmaOf<128>(task, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace tessera::cuda::attention
