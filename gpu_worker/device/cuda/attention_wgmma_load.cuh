// The producing warpgroup of the Hopper kernel: shared memory as rings of buffers, and what fills
// them.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_WGMMA_LOAD_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_WGMMA_LOAD_CUH_

#include <cuda.h>

#include <cstdint>

#include "gpu_worker/device/cuda/attention_hopper.cuh"
#include "gpu_worker/device/cuda/attention_mma_tile.cuh"
#include "gpu_worker/device/cuda/attention_task.cuh"
#include "gpu_worker/device/cuda/attention_wgmma_walk.cuh"

namespace tessera::cuda::attention {

constexpr int kGroup = 128;  // threads of a warpgroup
constexpr int kConsumers = 2;
constexpr int kThreads = (1 + kConsumers) * kGroup;
constexpr int kGroupRows = 64;
constexpr int kTileRows = kConsumers * kGroupRows;
constexpr int kTileKeys = 128;
constexpr int kBlockKeys = KvView::kBlockSlots;
constexpr int kStages = 2;
constexpr int kQueryStages = 2;
constexpr int kRowBytes = 128;  // of 64 columns, as wide as a swizzled row can be
constexpr int kQueryWarps = 3;  // of the producing warpgroup: the first warp brings K and V

// Named barriers; 0 is that of __syncthreads.
constexpr int kTurnBarrier = 1;  // + consumer: its turn at the tensor cores
constexpr int kGroupBarrier = kTurnBarrier + kConsumers;  // + consumer: of its own threads

// Shared memory: each tile of rows is cut in parts of 64 columns, part after part.
template <int kHeadDim>
struct Shape {
  static constexpr int kParts = (kHeadDim + 63) / 64;
  static constexpr int kQueryPart = kGroupRows * kRowBytes;
  static constexpr int kGroupQuery = kQueryPart * kParts;
  static constexpr int kQueryBytes = kGroupQuery * kConsumers;
  static constexpr int kKeyPart = kTileKeys * kRowBytes;
  static constexpr int kKeyBytes = kKeyPart * kParts;
  static constexpr int kBarrierBytes = 8 * (2 * kQueryStages + 4 * kStages);
  static constexpr int kAlignment = 1024;  // that of swizzled rows
  static constexpr int kSharedBytes = kQueryStages * kQueryBytes + 2 * kStages * kKeyBytes +
                                      kBarrierBytes + kAlignment +
                                      (kMostEvenTiles + 1) * static_cast<int>(sizeof(int32_t));
};

// The tensors of K and V [kv_head][block][slot in block][head_dim]; in the tail ones a block ends
// after last_position, so that what lies behind arrives as zeros: it may be NaN.
struct Maps {
  CUtensorMap k;
  CUtensorMap v;
  CUtensorMap k_tail;
  CUtensorMap v_tail;
  int32_t outside;  // a block that does not exist: all zeros
};

// A ring of buffers and its barriers, as one of its two sides walks through it.
template <int kBuffers>
struct Ring {
  uint32_t data;
  uint32_t bytes;
  uint32_t full;  // the first of kBuffers barriers
  uint32_t empty;
  uint32_t stage = 0;
  uint32_t parity = 0;

  __device__ uint32_t Data() const { return data + stage * bytes; }
  __device__ uint32_t Full() const { return full + stage * 8; }
  __device__ void WaitFull() const { BarrierWait(Full(), parity); }
  __device__ void WaitEmpty() const { BarrierWait(empty + stage * 8, parity ^ 1); }
  __device__ void Release() const { BarrierArrive(empty + stage * 8); }
  __device__ void Next() {
    if (++stage == kBuffers) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <int kHeadDim>
struct Rings {
  Ring<kQueryStages> q;
  Ring<kStages> k;
  Ring<kStages> v;
  int32_t* begins;  // see EvenWork

  __device__ explicit Rings(char* shared) {
    using S = Shape<kHeadDim>;
    const uint32_t start = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const uint32_t base = (start + S::kAlignment - 1) / S::kAlignment * S::kAlignment;
    const uint32_t k_data = base + kQueryStages * S::kQueryBytes;
    const uint32_t v_data = k_data + kStages * S::kKeyBytes;
    const uint32_t barriers = v_data + kStages * S::kKeyBytes;
    begins = reinterpret_cast<int32_t*>(shared + (barriers + S::kBarrierBytes - start));
    const uint32_t k_full = barriers + 16 * kQueryStages;
    const uint32_t v_full = k_full + 16 * kStages;
    q = {base, S::kQueryBytes, barriers, barriers + 8 * kQueryStages};
    k = {k_data, S::kKeyBytes, k_full, k_full + 8 * kStages};
    v = {v_data, S::kKeyBytes, v_full, v_full + 8 * kStages};
  }

  __device__ void Init() const {
    constexpr int kConsumerWarps = kConsumers * kGroup / 32;
    for (int i = 0; i < kQueryStages; ++i) {
      BarrierInit(q.full + 8 * i, kQueryWarps);
      BarrierInit(q.empty + 8 * i, kConsumerWarps);
    }
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(k.full + 8 * i, 1);
      BarrierInit(v.full + 8 * i, 1);
      BarrierInit(k.empty + 8 * i, kConsumerWarps);
      BarrierInit(v.empty + 8 * i, kConsumerWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
};

struct TileBlocks {
  int32_t block[kTileKeys / kBlockKeys];
};

__device__ TileBlocks BlocksOf(const Task& task, int32_t outside, int32_t tile) {
  TileBlocks blocks;
#pragma unroll
  for (int i = 0; i < kTileKeys / kBlockKeys; ++i) {
    const int32_t block = tile * (kTileKeys / kBlockKeys) + i;
    const bool seen = block <= task.last_position / kBlockKeys;
    blocks.block[i] = !seen ? outside : (task.blocks == nullptr ? block : task.blocks[block]);
  }
  return blocks;
}

// Starts the copy of one tile of K or V.
template <int kHeadDim>
__device__ void CopyTile(const Task& task, const CUtensorMap& map, const CUtensorMap& tail,
                         const TileBlocks& blocks, int32_t tile, int32_t kv_head,
                         Ring<kStages>& ring) {
  using S = Shape<kHeadDim>;
  ring.WaitEmpty();
  BarrierExpect(ring.Full(), S::kKeyBytes);
#pragma unroll
  for (int i = 0; i < kTileKeys / kBlockKeys; ++i) {
    const int32_t block = tile * (kTileKeys / kBlockKeys) + i;
    const CUtensorMap& from = block < task.last_position / kBlockKeys ? map : tail;
#pragma unroll
    for (int part = 0; part < S::kParts; ++part) {
      CopyBox(ring.Data() + part * S::kKeyPart + i * kBlockKeys * kRowBytes, from, part * 64, 0,
              blocks.block[i], kv_head, ring.Full());
    }
  }
  ring.Next();
}

// One thread: brings all K and V, in the order in which they are used.
template <int kHeadDim>
__device__ void ProduceKeys(const Task& task, const Maps& maps, Rings<kHeadDim>& rings) {
  Walk<kTileRows, kTileKeys> walk(task, rings.begins);
  Segment segment;
  while (walk.Next(&segment)) {
    TileBlocks next = BlocksOf(task, maps.outside, segment.end - 1);
    TileBlocks before = next;
    for (int32_t tile = segment.end - 1; tile >= segment.begin; --tile) {
      const TileBlocks blocks = next;
      if (tile > segment.begin) next = BlocksOf(task, maps.outside, tile - 1);
      CopyTile<kHeadDim>(task, maps.k, maps.k_tail, blocks, tile, segment.kv_head, rings.k);
      if (tile < segment.end - 1) {
        CopyTile<kHeadDim>(task, maps.v, maps.v_tail, before, tile + 1, segment.kv_head, rings.v);
      }
      before = blocks;
    }
    CopyTile<kHeadDim>(task, maps.v, maps.v_tail, before, segment.begin, segment.kv_head, rings.v);
  }
}

// Where in shared memory 16 bytes of a swizzled row lie; rows: the 64 rows of a warpgroup.
template <int kHeadDim>
__device__ uint32_t QueryChunk(uint32_t rows, int row, int chunk) {
  return rows + chunk / 8 * Shape<kHeadDim>::kQueryPart + row * kRowBytes +
         ((chunk ^ row) % 8) * 16;
}

// kQueryWarps warps: bring the query rows of the segment to come while another one is worked on.
template <int kHeadDim>
__device__ void ProduceQueries(const Task& task, Rings<kHeadDim>& rings) {
  Ring<kQueryStages>& ring = rings.q;
  constexpr int kChunks = kHeadDim / 8;
  const int thread = threadIdx.x - 32;
  Walk<kTileRows, kTileKeys> walk(task, rings.begins);
  Segment segment;
  while (walk.Next(&segment)) {
    ring.WaitEmpty();
    for (int i = thread; i < kTileRows * kChunks; i += kQueryWarps * 32) {
      const int row = i / kChunks;
      const int chunk = i % kChunks;
      const int32_t packed = segment.row_tile * kTileRows + row;
      const bool outside = packed >= task.rows;
      const int32_t at = outside ? 0 : packed;
      const int64_t head = static_cast<int64_t>(segment.kv_head) * task.group + at % task.group;
      const auto* from = task.q + at / task.group * task.q_stride + head * kHeadDim + chunk * 8;
      const uint32_t rows = ring.Data() + row / kGroupRows * Shape<kHeadDim>::kGroupQuery;
      CopyAsync16(QueryChunk<kHeadDim>(rows, row % kGroupRows, chunk), from, outside);
    }
    CommitCopies();
    WaitForCopies();
    FenceForAsync();
    __syncwarp();
    if (threadIdx.x % 32 == 0) BarrierArrive(ring.Full());
    ring.Next();
  }
}

}  // namespace tessera::cuda::attention

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_WGMMA_LOAD_CUH_
