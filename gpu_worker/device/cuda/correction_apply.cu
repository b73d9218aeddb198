// change = W deviation, rotated and added to the KV memory.
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/correction_change.cuh"
#include "gpu_worker/device/cuda/correction_change_wgmma.cuh"
#include "gpu_worker/device/cuda/correction_device.cuh"
#include "gpu_worker/device/cuda/launch.cuh"

namespace tessera::cuda {
namespace {

// Norms of the picked rows' deviations, K and V each over its mean norm. A warp per row.
__global__ void __launch_bounds__(kChangeThreads)
    DeviationNorms(const __grid_constant__ CorrectionDevice device,
                   const __grid_constant__ Fresh fresh) {
  // AddChanges begins meanwhile: it fetches what does not depend on this first.
  LetNextStart();
  const ChunkOnDevice chunk = device.chunks[blockIdx.y];
  const int i = blockIdx.x * (kChangeThreads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (i >= chunk.picked_count) return;
  const CachedRow cached =
      device.picked_rows[device.first_layer * int64_t{device.picked} + chunk.first_picked + i];
  const int64_t fresh_row = __ldg(chunk.fresh_rows + i);
  const __nv_bfloat16* fresh_k = fresh.k + fresh_row * fresh.k_stride;
  const __nv_bfloat16* fresh_v = fresh.v + fresh_row * fresh.v_stride;
  const float2 scales =
      device.scales[device.first_layer * int64_t{device.chunk_count} + blockIdx.y];
  float k = 0, v = 0;
#pragma unroll 4
  for (int j = lane * 8; j < device.width; j += 256) {
    float dk[8], dv[8];
    Deviate(fresh_k + j, cached.k + j, dk);
    Deviate(fresh_v + j, cached.v + j, dv);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      k += dk[e] * dk[e];
      v += dv[e] * dv[e];
    }
  }
  const float norm = sqrtf(scales.x * scales.x * WarpSum(k) + scales.y * scales.y * WarpSum(v));
  // NaN would have no place in the order.
  if (lane == 0) device.norms[chunk.first_picked + i] = isnan(norm) ? INFINITY : norm;
}

// The ((count - 1) / 2)-th smallest norm, for all threads; scratch: [count, to a multiple of 4]. It
// is the largest that no more than (count - 1) / 2 are smaller than.
__device__ float MedianNorm(const float* norms, int count, float* scratch) {
  __shared__ int median;  // bits; norms are not negative, so they are in the order of the numbers
  if (threadIdx.x == 0) median = 0;
  const int padded = (count + 3) / 4 * 4;
  for (int i = threadIdx.x; i < padded; i += blockDim.x) {
    scratch[i] = i < count ? norms[i] : INFINITY;
  }
  __syncthreads();
  int best = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const float norm = scratch[i];
    int smaller = 0;
#pragma unroll 8
    for (int j = 0; j < padded; j += 4) {
      const float4 others = *reinterpret_cast<const float4*>(scratch + j);
      smaller += (others.x < norm ? 1 : 0) + (others.y < norm ? 1 : 0) + (others.z < norm ? 1 : 0) +
                 (others.w < norm ? 1 : 0);
    }
    if (smaller <= (count - 1) / 2) best = max(best, __float_as_int(norm));
  }
  best = __reduce_max_sync(0xffffffffu, best);
  if (threadIdx.x % 32 == 0 && best > 0) atomicMax(&median, best);
  __syncthreads();
  return __int_as_float(median);
}

// Grid: (tiles of columns of K, then of V; spans). A block keeps its columns' deviations, if there
// are no more than kDepth, in shared memory while it goes down its rows. A step is kDepth picked
// rows of one tile of rows; two steps are on their way while one is worked on.
template <int kDepth>
__global__ void __launch_bounds__(kChangeThreads, kDepth <= 160 ? 2 : 1)
    AddChanges(const __grid_constant__ CorrectionDevice device, const __grid_constant__ Fresh fresh,
               const __grid_constant__ Rope rope, const __grid_constant__ KvView kv) {
  extern __shared__ __align__(128) unsigned char base[];
  using Shared = ChangeShared<kDepth>;
  const Shared shared(base);
  const ChangeSpan span = device.spans[blockIdx.y];
  if (device.failed[device.first_layer * int64_t{device.chunk_count} + span.chunk]) return;
  const Change change(device, kv, span.chunk, blockIdx.x);
  const int parts = (change.chunk.cols + kDepth - 1) / kDepth, steps = span.tiles * parts;
  auto tile_of = [&](int step) { return span.first_tile + (parts == 1 ? step : step / parts); };
  auto slot_of = [&](int step) {
    return step < steps ? BlockSlot(kv, change.first_block + tile_of(step)) : 0;
  };
  auto copy = [&](int step, int64_t slot) {
    if (step < steps) {
      const int tile = tile_of(step), part = parts == 1 ? 0 : step % parts;
      CopyWeights<kDepth>(change, tile, part * kDepth,
                          shared.weights + step % 2 * Shared::kWeightsBytes);
      if (part == 0) CopyKv<kDepth>(change, tile, slot, shared.kv + tile % 2 * kKvBytes);
    }
    CommitCopies();
  };
  copy(0, slot_of(0));
  copy(1, slot_of(1));
  const int row = threadIdx.x / 16;
  DeviationBatch batch;
  batch.Load(change, fresh, row);
  AwaitLast();
  const float longest = device.rule.bound * MedianNorm(change.norms, change.chunk.picked_count,
                                                       reinterpret_cast<float*>(base));
  int offsets[2];  // of the thread's pairs in rope's rows
#pragma unroll
  for (int unit = 0; unit < 2; ++unit) {
    offsets[unit] =
        Unit(change.first_unit + threadIdx.x / 32 % 4 * 2 + unit, change.head_dim).offset +
        threadIdx.x % 4 * 2;
  }
  ChangeSums sums = {};
  for (int step = 0; step < steps; ++step) {
    const int part = parts == 1 ? 0 : step % parts, tile = tile_of(step);
    if (parts > 1 || step == 0) {
      const int depth = min(kDepth, change.chunk.cols - part * kDepth);
      for (int at = row; at < depth; at += kDeviationBatch * (kChangeThreads / 16)) {
        if (step > 0 || at != row) batch.Load(change, fresh, part * kDepth + at);
        batch.Store<kDepth>(change, longest, part * kDepth + at, at, shared.deviation);
      }
    }
    const int64_t slot = slot_of(step), slot_ahead = slot_of(step + 2);
    Angles angles;
    const bool rotate = !change.is_v;
    if (rotate) angles.Load(change, rope, offsets, tile);
    WaitCopies<1>();
    __syncthreads();
    MultiplyChange<kDepth>(sums, shared.weights + step % 2 * Shared::kWeightsBytes,
                           shared.deviation, min(kDepth, change.chunk.cols - part * kDepth));
    if (part == parts - 1) {
      const uint32_t tile_kv = shared.kv + tile % 2 * kKvBytes;
      AddChange<kDepth>(angles, rotate, sums, tile_kv);
      __syncthreads();
      StoreKv<kDepth>(change, tile, slot, tile_kv);
#pragma unroll
      for (int i = 0; i < 32; ++i) sums[i / 16][i / 4 % 4][i % 4] = 0;
    }
    __syncthreads();
    copy(step + 2, slot_ahead);
  }
  WaitCopies<0>();
}

// A warpgroup's shared memory: its tile of W, then its stages of KV memory.
struct HopperShared {
  uint32_t deviations;
  uint32_t weights;
  uint32_t kv;
  uint32_t weights_barrier;
  uint32_t kv_barrier;  // the first stage's; 8 bytes each

  __device__ HopperShared(uint32_t base, int cols, int stages) : deviations(base) {
    const int weights_bytes = WeightsTileNumbers(cols) * 2;
    const int bytes = weights_bytes + stages * kHopperKvBytes;
    const int warpgroups = blockDim.x / 128, warpgroup = threadIdx.x / 128;
    weights = base + cols * kHopperColumns * 2 + warpgroup * bytes;
    kv = weights + weights_bytes;
    weights_barrier =
        base + cols * kHopperColumns * 2 + warpgroups * bytes + warpgroup * 8 * (1 + stages);
    kv_barrier = weights_barrier + 8;
  }
};

// AddChanges on Hopper; see correction_change_wgmma.cuh. The same grid.
template <int kHeadDim>
__global__ void __launch_bounds__(384, 1)
    AddChangesOnHopper(const __grid_constant__ CorrectionDevice device,
                       const __grid_constant__ Fresh fresh, const __grid_constant__ Rope rope,
                       const __grid_constant__ KvView kv, int stages) {
#if TESSERA_CORRECTION_WGMMA
  extern __shared__ __align__(1024) unsigned char hopper_base[];
  const ChangeSpan span = device.spans[blockIdx.y];
  const bool failed =
      device.failed[device.first_layer * int64_t{device.chunk_count} + span.chunk] != 0;
  const HopperChange<kHeadDim> change(device, kv, span.chunk, blockIdx.x);
  const int cols = change.chunk.cols, warpgroups = blockDim.x / 128;
  const HopperShared shared(SharedAddress(hopper_base), cols, stages);
  const bool leads = threadIdx.x % 128 == 0;
  const int last = span.first_tile + span.tiles, begin = span.first_tile + threadIdx.x / 128;
  auto copy_weights = [&](int tile) {
    if (!leads || tile >= last) return;
    const int numbers = WeightsTileNumbers(cols);
    ExpectBytes(shared.weights_barrier, numbers * 2);
    CopyBulk(shared.weights, change.weights + tile * int64_t{numbers}, numbers * 2,
             shared.weights_barrier);
  };
  auto slot_of = [&](int tile) {
    return tile < last ? BlockSlot(kv, change.first_block + tile) : 0;
  };
  auto copy_kv = [&](int tile, int64_t slot, int stage) {
    if (!leads || tile >= last) return;
    CopyKvTile(change, tile, slot, shared.kv + stage * kHopperKvBytes,
               shared.kv_barrier + stage * 8);
  };
  HopperDeviations batch;
  const int first = threadIdx.x / 16, stride = HopperDeviations::kBatch * (blockDim.x / 16);
  batch.FindRows(change, first);
  int64_t slot = slot_of(begin), next_slot = slot_of(begin + warpgroups);
  if (failed) return;
  batch.Load(change, fresh);
  if (leads) {
    for (int i = 0; i <= stages; ++i) InitBarrier(shared.weights_barrier + i * 8);
    FenceBarriers();
  }
  copy_weights(begin);
  copy_kv(begin, slot, 0);
  if (stages > 1) copy_kv(begin + warpgroups, next_slot, 1);
  alignas(16) __shared__ float turn[kHeadDim];
  HopperTurn<kHeadDim> next_turn;
  const bool turns = !change.is_v && span.tiles > warpgroups;
  if (turns) next_turn.Load(rope, warpgroups * kChangeRows);
  AwaitLast();
  const float longest = device.rule.bound * MedianNorm(change.norms, change.chunk.picked_count,
                                                       reinterpret_cast<float*>(hopper_base));
  batch.Store(change, longest, first, shared.deviations);
  for (int i = first + stride; i < cols; i += stride) {
    batch.FindRows(change, i);
    batch.Load(change, fresh);
    batch.Store(change, longest, i, shared.deviations);
  }
  HopperAngles<kHeadDim> angles;
  if (!change.is_v && begin < last) {
    angles.Load(rope, TileRows(change, begin), (change.first_block + begin) * kChangeRows);
  }
  if (turns) next_turn.Store(turn);
  FenceForProducts();
  __syncthreads();
  float sums[16][4];
  int stage = 0, kv_parity = 0, weights_parity = 0;
  for (int tile = begin; tile < last; tile += warpgroups) {
    const TileRows rows(change, tile);
    const int64_t ahead_slot = slot_of(tile + 2 * warpgroups);
    WaitBarrier(shared.weights_barrier, weights_parity);
    weights_parity ^= 1;
    MultiplyDeviations(sums, shared.weights, shared.deviations, cols);
    WaitProducts();
    SyncWarpgroup();
    copy_weights(tile + warpgroups);
    WaitBarrier(shared.kv_barrier + stage * 8, kv_parity);
    const uint32_t tile_kv = shared.kv + stage * kHopperKvBytes;
    if (change.is_v) {
      WriteChange<kHeadDim, false>(change, angles, sums, rows, slot, tile_kv);
    } else {
      WriteChange<kHeadDim, true>(change, angles, sums, rows, slot, tile_kv);
    }
    SyncWarpgroup();
    copy_kv(tile + stages * warpgroups, stages > 1 ? ahead_slot : next_slot, stage);
    slot = next_slot;
    next_slot = ahead_slot;
    if (turns) angles.Turn(turn);
    if (++stage == stages) {
      stage = 0;
      kv_parity ^= 1;
    }
  }
#else
  __trap();
#endif
}

template <typename... Arguments>
void LaunchEarly(void (*kernel)(CorrectionDevice, Fresh, Rope, KvView, Arguments...),
                 const CorrectionDevice& device, int threads, int bytes, const Fresh& fresh,
                 const Rope& rope, const KvView& kv, cudaStream_t stream, Arguments... more) {
  CUDA_OR_DIE("correct",
              cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const int units = device.width / 16, tiles = (units + kChangeUnits - 1) / kChangeUnits;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(2 * tiles, device.span_count);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = device.hopper ? 1 : 0;
  CUDA_OR_DIE("correct", cudaLaunchKernelEx(&config, kernel, device, fresh, rope, kv, more...));
}

template <int kDepth>
void LaunchAddChanges(const CorrectionDevice& device, const Fresh& fresh, const Rope& rope,
                      const KvView& kv, cudaStream_t stream) {
  LaunchEarly(AddChanges<kDepth>, device, kChangeThreads, ChangeShared<kDepth>::kBytes, fresh, rope,
              kv, stream);
}

// The best way on Hopper; no warpgroups where there is none.
HopperShape HopperShapeOf(const CorrectionDevice& device) {
  if (!device.hopper || (device.head_dim != 64 && device.head_dim != 128)) return {};
  for (const HopperShape shape :
       {HopperShape{3, 2}, HopperShape{3, 1}, HopperShape{2, 2}, HopperShape{2, 1}}) {
    if (shape.Bytes(device.most_cols) + 2048 <= device.shared_bytes) return shape;
  }
  return {};
}

}  // namespace

bool ChangesOnHopper(const CorrectionDevice& device) {
  return HopperShapeOf(device).warpgroups > 0;
}

void LaunchChange(const CorrectionDevice& device, const Bf16Rows& fresh_k, const Bf16Rows& fresh_v,
                  const Rope& rope, const KvView& kv, cudaStream_t stream) {
  const Fresh fresh = {fresh_k.data, fresh_v.data, fresh_k.stride, fresh_v.stride};
  const int warps = kChangeThreads / 32;
  DeviationNorms<<<dim3((device.most_cols + warps - 1) / warps, device.chunk_count), kChangeThreads,
                   0, stream>>>(device, fresh);
  CUDA_OR_DIE("correct", cudaGetLastError());
  if (const HopperShape shape = HopperShapeOf(device); shape.warpgroups > 0) {
    LaunchEarly(device.head_dim == 64 ? AddChangesOnHopper<64> : AddChangesOnHopper<128>, device,
                shape.warpgroups * 128, shape.Bytes(device.most_cols), fresh, rope, kv, stream,
                shape.stages);
    return;
  }
  // All picked rows at once where they fit, else as many as fit.
  const auto fits = [&](int bytes) { return bytes + 1024 <= device.shared_bytes; };
  if (device.most_cols <= 160 && fits(ChangeShared<160>::kBytes)) {
    LaunchAddChanges<160>(device, fresh, rope, kv, stream);
  } else if (fits(ChangeShared<352>::kBytes)) {  // sm_90
    LaunchAddChanges<352>(device, fresh, rope, kv, stream);
  } else if (fits(ChangeShared<224>::kBytes)) {  // sm_80
    LaunchAddChanges<224>(device, fresh, rope, kv, stream);
  } else {
    LaunchAddChanges<96>(device, fresh, rope, kv, stream);
  }
}

}  // namespace tessera::cuda
