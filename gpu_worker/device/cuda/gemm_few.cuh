// The kernel of gemm_few.cu.
//
// A block has 8 warps, one per strand (see gemm_few.h), and walks over tiles of 16 * kGroups rows
// of the weight. Each warp streams its strand's columns, of the weight and of x, through a ring of
// its own in shared memory: no warp waits for another but to add up a finished tile, and the ring
// runs on into the next tile meanwhile. On the tensor cores the weight is A (16 rows) and x is B (8
// of its rows at a time).
//
// The columns of a product's K may stand in any order, as long as A and B agree: lane 4 * g + t
// reads 8 neighbours, columns 8 * t ... of a run of 32, as 16 bytes, and feeds them to two
// products.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_FEW_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_FEW_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "gpu_worker/device/cuda/rows.cuh"

namespace tessera::cuda::few {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kRun = 32;       // columns
constexpr int kChunk = 64;     // columns
constexpr int kSumPitch = 20;  // floats from one column's 16 sums to the next's

enum class Output { kF32, kBf16, kSwiGlu };

struct Product {
  const __nv_bfloat16* x = nullptr;
  const __nv_bfloat16* w = nullptr;
  const float* bias = nullptr;
  void* out = nullptr;
  int64_t x_stride = 0, out_stride = 0;
  int m = 0, n = 0, k = 0;  // n: columns of out
  bool accumulate = false;
};

// kGroups: times 16 rows of the weight per tile; kTiles: times 8 rows of x; kRuns: of columns per
// stage of a ring (1 or 2), kStages of them; kPass: tiles of x whose sums are added up at once;
// kBlocks: per multiprocessor.
template <int kGroupsOf, int kTilesOf, int kRunsOf, int kStagesOf, int kPassOf, int kBlocksOf,
          Output kOutputOf>
struct Shape {
  static constexpr int kGroups = kGroupsOf, kTiles = kTilesOf, kRuns = kRunsOf;
  static constexpr int kStages = kStagesOf, kPass = kPassOf, kBlocks = kBlocksOf;
  static constexpr Output kOutput = kOutputOf;
  static constexpr bool kSwiGlu = kOutput == Output::kSwiGlu;
  // Groups of 16 rows that are finished together, and columns of out per tile.
  static constexpr int kJoint = kSwiGlu ? 2 : 1;
  static constexpr int kColumns = 16 * kGroups / kJoint;
  static constexpr int kRowBytes = kRuns * kRun * 2;
  static constexpr int kGroupBytes = 16 * kRowBytes, kTileBytes = 8 * kRowBytes;
  static constexpr int kStageBytes = kGroups * kGroupBytes + kTiles * kTileBytes;
  static constexpr int kRingBytes = kWarps * kStages * kStageBytes;
  static constexpr int kSums = kPass * 8 * kSumPitch;  // floats of a warp and a group
  static constexpr int kSharedBytes = kRingBytes + kJoint * kWarps * kSums * 4;
  // Outputs of a thread in a group and pass.
  static constexpr int kOutputs = (kPass * 8 * 16 + kThreads - 1) / kThreads;
  static_assert(kTiles % kPass == 0 && kGroups % kJoint == 0 && (kRuns == 1 || kRuns == 2));
  static_assert(kSharedBytes <= 227 * 1024);  // sm_90's most

  // Of piece `piece` (16 bytes) of row `row`; odd rows of two runs have their halves exchanged, so
  // that 8 lanes that read 2 rows' runs meet no bank twice.
  __device__ static uint32_t Offset(int row, int piece) {
    return row * kRowBytes + (kRuns == 2 ? piece ^ (row % 2 * 4) : piece) * 16;
  }
};

__device__ inline void CopyAsync(uint32_t to, const void* from, bool real) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(real ? 16 : 0)
               : "memory");
}

__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kLeft>
__device__ inline void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

__device__ inline uint4 LoadShared(uint32_t from) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(from)
               : "memory");
  return x;
}

// c += a b over 16 columns.
__device__ inline void Mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                           uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Walks over the stages of one strand, tile after tile.
template <typename S>
struct Walk {
  int tile, column;

  __device__ void Step(int strand, int k) {
    constexpr int kStep = S::kRuns * kRun;
    column += kStep;
    if (column % kChunk == 0) column += (kWarps - 1) * kChunk;
    if (column < k) return;
    column = strand * kChunk;
    tile += gridDim.x;
  }
};

// Starts the copies of the weight's part of a stage.
template <typename S>
__device__ inline void StartWeight(const Product& p, const Walk<S>& at, uint32_t stage) {
  constexpr int kPieces = S::kRuns * 4, kRows = 32 / kPieces;  // rows that a warp copies at once
  const int lane = threadIdx.x % 32, piece = lane % kPieces, row = lane / kPieces;
  const int column = at.column + piece * 8;
  const uint32_t to = stage + S::Offset(row, piece);
#pragma unroll
  for (int group = 0; group < S::kGroups; ++group) {
    const int n = at.tile * S::kColumns + group / S::kJoint * 16 + row;
    const int64_t first = S::kSwiGlu && group % 2 == 1 ? n + p.n : n;
    const __nv_bfloat16* from = p.w + first * p.k + column;
#pragma unroll
    for (int i = 0; i < 16; i += kRows) {
      const bool real = n + i < p.n && column < p.k;
      CopyAsync(to + group * S::kGroupBytes + i * S::kRowBytes,
                real ? from + int64_t{i} * p.k : p.w, real);
    }
  }
}

// And of x's part.
template <typename S>
__device__ inline void StartX(const Product& p, const Walk<S>& at, uint32_t stage) {
  constexpr int kPieces = S::kRuns * 4, kRows = 32 / kPieces;
  const int lane = threadIdx.x % 32, piece = lane % kPieces, row = lane / kPieces;
  const int column = at.column + piece * 8;
  const uint32_t to = stage + S::kGroups * S::kGroupBytes + S::Offset(row, piece);
  const __nv_bfloat16* from = p.x + row * p.x_stride + column;
#pragma unroll
  for (int i = 0; i < S::kTiles * 8; i += kRows) {
    const bool real = row + i < p.m && column < p.k;
    CopyAsync(to + i * S::kRowBytes, real ? from + i * p.x_stride : p.x, real);
  }
}

template <typename S>
__device__ inline void Multiply(uint32_t stage, float (&sums)[S::kGroups][S::kTiles][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int run = 0; run < S::kRuns; ++run) {
    const uint32_t at = stage + S::Offset(g, run * 4 + t);
    const uint32_t x_at = at + S::kGroups * S::kGroupBytes;
    uint4 x[S::kTiles];
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) x[tile] = LoadShared(x_at + tile * S::kTileBytes);
#pragma unroll
    for (int group = 0; group < S::kGroups; ++group) {
      const uint4 low = LoadShared(at + group * S::kGroupBytes);
      const uint4 high = LoadShared(at + group * S::kGroupBytes + 8 * S::kRowBytes);
#pragma unroll
      for (int tile = 0; tile < S::kTiles; ++tile) {
        Mma(sums[group][tile], low.x, high.x, low.y, high.y, x[tile].x, x[tile].y);
        Mma(sums[group][tile], low.z, high.z, low.w, high.w, x[tile].z, x[tile].w);
      }
    }
  }
}

// Writes one group's sums of this warp over a pass of tiles: [row of x][row of the weight].
template <int kPass>
__device__ inline void PutSums(const float (*sums)[4], float* to) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < kPass; ++tile) {
    float* at = to + (tile * 8 + 2 * t) * kSumPitch + g;
    at[0] = sums[tile][0];
    at[kSumPitch] = sums[tile][1];
    at[8] = sums[tile][2];
    at[kSumPitch + 8] = sums[tile][3];
  }
}

template <typename S>
__device__ inline float TotalOf(const float* sums, int group, int at) {
  float total = sums[group * kWarps * S::kSums + at];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) {
    total += sums[(group * kWarps + warp) * S::kSums + at];
  }
  return total;
}

// What is added to a tile's products, read long before it is needed.
template <typename S>
struct Added {
  static constexpr int kPasses = S::kTiles / S::kPass;

  float bias[S::kGroups];
  float held[S::kGroups][kPasses][S::kOutputs];

  // The row of x of this thread's output `i` in a pass.
  __device__ static int RowOf(int pass, int i) {
    return pass * S::kPass * 8 + (i * kThreads + threadIdx.x) / 16;
  }

  __device__ void Read(const Product& p, int tile) {
#pragma unroll
    for (int group = 0; group < S::kGroups; ++group) {
      const int column = tile * S::kColumns + group * 16 + threadIdx.x % 16;
      const bool real = column < p.n;
      bias[group] = real && p.bias != nullptr ? p.bias[column] : 0.0f;
      if (S::kOutput != Output::kF32 || !p.accumulate) continue;
      const float* out = static_cast<const float*>(p.out) + column;
#pragma unroll
      for (int i = 0; i < kPasses * S::kOutputs; ++i) {
        const int row = RowOf(i / S::kOutputs, i % S::kOutputs);
        held[group][i / S::kOutputs][i % S::kOutputs] =
            real && row < p.m ? out[row * p.out_stride] : 0.0f;
      }
    }
  }
};

// Adds the strands up and writes this thread's outputs of a group (of two, for SwiGLU) and pass.
template <typename S>
__device__ inline void Finish(const Product& p, const float* sums, const Added<S>& added, int tile,
                              int group, int pass) {
  const int column = tile * S::kColumns + group / S::kJoint * 16 + threadIdx.x % 16;
#pragma unroll
  for (int i = 0; i < S::kOutputs; ++i) {
    const int row = Added<S>::RowOf(pass, i);
    const int row_of_pass = row - pass * S::kPass * 8;
    if (row >= p.m || row_of_pass >= S::kPass * 8 || column >= p.n) continue;
    const int at = row_of_pass * kSumPitch + threadIdx.x % 16;
    const int64_t to = row * p.out_stride + column;
    float total = TotalOf<S>(sums, 0, at);
    if constexpr (S::kSwiGlu) {
      const float up = TotalOf<S>(sums, 1, at);
      total = __fdividef(total, 1.0f + __expf(-total)) * up;
    } else if (p.bias != nullptr) {
      total += added.bias[group];
    }
    if constexpr (S::kOutput == Output::kF32) {
      float* out = static_cast<float*>(p.out) + to;
      *out = p.accumulate ? added.held[group][pass][i] + total : total;
    } else {
      static_cast<__nv_bfloat16*>(p.out)[to] = __float2bfloat16_rn(total);
    }
  }
}

template <typename S>
__global__ void __launch_bounds__(kThreads, S::kBlocks)
    GemmFewKernel(const __grid_constant__ Product p, int tiles) {
  extern __shared__ __align__(128) unsigned char shared[];
  LetNextStart();
  const int warp = threadIdx.x / 32;
  const uint32_t ring =
      static_cast<uint32_t>(__cvta_generic_to_shared(shared)) + warp * S::kStages * S::kStageBytes;
  float* const all_sums = reinterpret_cast<float*>(shared + S::kRingBytes);

  // Fill the ring: the weight now, x once it is there. A strand may have no columns (k < 512).
  const Walk<S> begin{warp * kChunk < p.k ? static_cast<int>(blockIdx.x) : tiles, warp * kChunk};
  Walk<S> ahead = begin;
#pragma unroll
  for (int stage = 0; stage < S::kStages; ++stage) {
    if (ahead.tile < tiles) StartWeight<S>(p, ahead, ring + stage * S::kStageBytes);
    if (ahead.tile < tiles) ahead.Step(warp, p.k);
  }
  AwaitLast();
  ahead = begin;
#pragma unroll
  for (int stage = 0; stage < S::kStages; ++stage) {
    if (ahead.tile < tiles) StartX<S>(p, ahead, ring + stage * S::kStageBytes);
    if (ahead.tile < tiles) ahead.Step(warp, p.k);
    CommitCopies();
  }

  int stage = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    Added<S> added;
    if constexpr (!S::kSwiGlu) added.Read(p, tile);
    float sums[S::kGroups][S::kTiles][4] = {};
    for (Walk<S> now{tile, warp * kChunk}; now.tile == tile && now.column < p.k;
         now.Step(warp, p.k)) {
      WaitCopies<S::kStages - 1>();
      __syncwarp();
      const uint32_t at = ring + stage * S::kStageBytes;
      Multiply<S>(at, sums);
      __syncwarp();
      if (ahead.tile < tiles) {
        StartWeight<S>(p, ahead, at);
        StartX<S>(p, ahead, at);
        ahead.Step(warp, p.k);
      }
      CommitCopies();
      stage = stage + 1 == S::kStages ? 0 : stage + 1;
    }
#pragma unroll
    for (int group = 0; group < S::kGroups; group += S::kJoint) {
#pragma unroll
      for (int pass = 0; pass < S::kTiles / S::kPass; ++pass) {
        if (pass * S::kPass * 8 >= p.m) continue;
        __syncthreads();  // the last sums have been read
#pragma unroll
        for (int joint = 0; joint < S::kJoint; ++joint) {
          PutSums<S::kPass>(sums[group + joint] + pass * S::kPass,
                            all_sums + (joint * kWarps + warp) * S::kSums);
        }
        __syncthreads();
        Finish<S>(p, all_sums, added, tile, group, pass);
      }
    }
  }
  WaitCopies<0>();
}

inline int Multiprocessors() {
  static const int count = [] {
    int device = 0, multiprocessors = 0;
    CUDA_OR_DIE("device", cudaGetDevice(&device));
    CUDA_OR_DIE("device",
                cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    return multiprocessors;
  }();
  return count;
}

template <typename S>
void Launch(const Product& p, cudaStream_t stream) {
  static const bool ready = [] {
    CUDA_OR_DIE("GemmFew",
                cudaFuncSetAttribute(GemmFewKernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     S::kSharedBytes));
    return true;
  }();
  static_cast<void>(ready);
  const int tiles = static_cast<int>(CeilOf(p.n, S::kColumns));
  const int blocks = std::min(tiles, S::kBlocks * Multiprocessors());
  LaunchOverlapped("GemmFew", GemmFewKernel<S>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
                   S::kSharedBytes, stream, p, tiles);
}

}  // namespace tessera::cuda::few

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_FEW_CUH_
