// A tile of the change: W times the bounded deviations, rotated and added to KV memory.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_CHANGE_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_CHANGE_CUH_

#include "gpu_worker/device/cuda/correction_device.cuh"

namespace tessera::cuda {

constexpr int kChangeThreads = 256;

struct Fresh {
  const __nv_bfloat16* k;
  const __nv_bfloat16* v;
  int64_t k_stride;
  int64_t v_stride;
};

__device__ inline void Widen(const uint4& from, float (&to)[8]) {
  const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

// Fresh minus cached, 8 numbers.
__device__ inline void Deviate(const __nv_bfloat16* fresh, const __nv_bfloat16* cached,
                               float (&to)[8]) {
  float old[8];
  Widen(__ldg(reinterpret_cast<const uint4*>(fresh)), to);
  Widen(__ldg(reinterpret_cast<const uint4*>(cached)), old);
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] -= old[i];
}

// Where block `block` of a request's slots begins in a head's KV memory.
__device__ inline int64_t BlockSlot(const KvView& kv, int64_t block) {
  return (kv.blocks == nullptr ? block : __ldg(kv.blocks + block)) * KvView::kBlockSlots;
}

// Columns are dealt in units: 8 numbers of a head's first half and the 8 that rotate with them. A
// tile of columns is kChangeUnits units of K, or of V.
struct Unit {
  int head;
  int offset;  // of the first half's numbers, in the head

  __device__ Unit(int index, int head_dim)
      : head(index / (head_dim / 16)), offset(index % (head_dim / 16) * 8) {}
};

constexpr int kTileBytes = kChangeUnits * 16 * 2;   // a row of a tile of columns
constexpr int kKvBytes = kChangeRows * kTileBytes;  // a tile of KV memory

// kDepth: picked rows that shared memory holds at once, a multiple of kWeightsBlock.
template <int kDepth>
struct ChangeShared {
  static constexpr int kWeightsBytes = kChangeRows * kDepth * 2;
  static constexpr int kBytes = kDepth * kTileBytes + 2 * kWeightsBytes + 2 * kKvBytes;

  uint32_t deviation;  // [kDepth][128 columns]; part j of a row holds half j % 2 of unit j / 2
  uint32_t weights;    // [2][blocks of picked rows][kChangeRows][kWeightsBlock]
  uint32_t kv;         // [2][kChangeRows][128 columns]

  __device__ explicit ChangeShared(const void* base)
      : deviation(SharedAddress(base)),
        weights(deviation + kDepth * kTileBytes),
        kv(weights + 2 * kWeightsBytes) {}

  static __device__ uint32_t Columns(uint32_t base, int row, int part) {
    return base + row * kTileBytes + (part ^ (row & 7)) * 16;
  }
  static __device__ uint32_t Weights(uint32_t base, int row, int part) {
    return Swizzled<64>(base + part / 4 * (kChangeRows * kWeightsBlock * 2), row, part % 4);
  }
};

// What a thread needs to know for its block's part of the change. Tiles of rows lie on the blocks
// of KV memory: row r of tile t is slot 64 t + r, and W's row 64 t + r - shift.
struct Change {
  ChunkOnDevice chunk;
  const CachedRow* picked_rows;  // of the chunk
  const float* norms;            // of its deviations
  const __nv_bfloat16* weights;
  __nv_bfloat16* column;  // the thread's 8 columns in KV memory's row 0; null past the last head
  int64_t first_block;
  int shift;
  int head_dim;
  int first_unit;
  int feature;  // the thread's columns in a row of K or V
  bool is_v;

  __device__ Change(const CorrectionDevice& device, const KvView& kv, int chunk_index, int tile)
      : chunk(device.chunks[chunk_index]), head_dim(device.head_dim) {
    const int tiles = gridDim.x / 2;
    is_v = tile >= tiles;
    first_unit = (tile - (is_v ? tiles : 0)) * kChangeUnits;
    picked_rows =
        device.picked_rows + device.first_layer * int64_t{device.picked} + chunk.first_picked;
    norms = device.norms + chunk.first_picked;
    weights = device.weights + device.first_layer * device.weights_per_layer + chunk.weights;
    first_block = chunk.first_position / KvView::kBlockSlots;
    shift = static_cast<int>(chunk.first_position % KvView::kBlockSlots);
    const int part = threadIdx.x % 16;
    const Unit unit(first_unit + part / 2, head_dim);
    const int in_head = unit.offset + part % 2 * (head_dim / 2);
    feature = unit.head * head_dim + in_head;
    column = unit.head < device.heads
                 ? (is_v ? kv.v : kv.k) + unit.head * kv.head_slots * head_dim + in_head
                 : nullptr;
  }

  // W's row of a tile's row; not always one of the chunk.
  __device__ int Row(int tile, int row) const { return tile * kChangeRows - shift + row; }
  __device__ bool Has(int row) const { return row >= 0 && row < chunk.rows; }
};

// Copies the parts of a tile of W for picked rows first_depth ...; it is already in order.
template <int kDepth>
__device__ inline void CopyWeights(const Change& change, int tile, int first_depth, uint32_t to) {
  const int depth = min(kDepth, change.chunk.cols - first_depth);
  const int parts = WeightsTileNumbers(depth) / 8;
  const __nv_bfloat16* from = change.weights +
                              int64_t{tile} * WeightsTileNumbers(change.chunk.cols) +
                              first_depth * kChangeRows;
#pragma unroll 5
  for (int i = threadIdx.x; i < parts; i += kChangeThreads) {
    CopyAsync(to + i * 16, from + i * 8, true);
  }
}

// slot: the tile's first, in a head's KV memory.
template <int kDepth>
__device__ inline void CopyKv(const Change& change, int tile, int64_t slot, uint32_t to) {
  if (change.column == nullptr) return;
  const __nv_bfloat16* from = change.column + slot * change.head_dim;
#pragma unroll
  for (int i = 0; i < kChangeRows; i += kChangeThreads / 16) {
    const int row = i + threadIdx.x / 16;
    if (!change.Has(change.Row(tile, row))) continue;
    CopyAsync(ChangeShared<kDepth>::Columns(to, row, threadIdx.x % 16),
              from + row * change.head_dim, true);
  }
}

// The thread's 8 columns of some picked rows, fresh and cached.
constexpr int kDeviationBatch = 5;
struct DeviationBatch {
  uint4 fresh[kDeviationBatch];
  uint4 cached[kDeviationBatch];

  // Rows i, i + kChangeThreads / 16, ...
  __device__ void Load(const Change& change, const Fresh& fresh_rows, int i) {
    const __nv_bfloat16* base = (change.is_v ? fresh_rows.v : fresh_rows.k) + change.feature;
    const int64_t stride = change.is_v ? fresh_rows.v_stride : fresh_rows.k_stride;
#pragma unroll
    for (int j = 0; j < kDeviationBatch; ++j, i += kChangeThreads / 16) {
      fresh[j] = cached[j] = uint4{0, 0, 0, 0};
      if (i >= change.chunk.picked_count || change.column == nullptr) continue;
      const CachedRow row = change.picked_rows[i];
      const int64_t fresh_row = __ldg(change.chunk.fresh_rows + i);
      fresh[j] = __ldg(reinterpret_cast<const uint4*>(base + fresh_row * stride));
      cached[j] =
          __ldg(reinterpret_cast<const uint4*>((change.is_v ? row.v : row.k) + change.feature));
    }
  }

  // Puts the deviations, none longer than `longest`, in shared memory. i, as of Load, is the
  // first's row among all picked ones, `row` in shared memory.
  template <int kDepth>
  __device__ void Store(const Change& change, float longest, int i, int row, uint32_t to) const {
#pragma unroll
    for (int j = 0; j < kDeviationBatch; ++j) {
      const int at = row + j * (kChangeThreads / 16), picked = i + j * (kChangeThreads / 16);
      if (at >= kDepth) break;
      const float norm = picked < change.chunk.picked_count ? change.norms[picked] : 0;
      const float factor = norm > longest ? longest / norm : 1;
      float deviation[8], old[8];
      Widen(fresh[j], deviation);
      Widen(cached[j], old);
      uint32_t words[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const __nv_bfloat162 two =
            __floats2bfloat162_rn((deviation[2 * e] - old[2 * e]) * factor,
                                  (deviation[2 * e + 1] - old[2 * e + 1]) * factor);
        words[e] = *reinterpret_cast<const uint32_t*>(&two);
      }
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(
                       ChangeShared<kDepth>::Columns(to, at, threadIdx.x % 16)),
                   "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                   : "memory");
    }
  }
};

// A warp makes 32 rows of 2 units: sums[16 rows][unit * 2 + half].
using ChangeSums = float[2][4][4];

template <int kDepth>
__device__ inline void MultiplyChange(ChangeSums& sums, uint32_t weights, uint32_t deviation,
                                      int depth) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp / 4 * 32, warp_part = warp % 4 * 4;
#pragma unroll 5
  for (int first = 0; first < depth; first += 16) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      LoadFragments(a[m], ChangeShared<kDepth>::Weights(weights, warp_row + m * 16 + lane % 16,
                                                        first / 8 + lane / 16));
    }
#pragma unroll
    for (int unit = 0; unit < 2; ++unit) {
      uint32_t b[4];
      LoadFragmentsTransposed(b, ChangeShared<kDepth>::Columns(deviation, first + lane % 16,
                                                               warp_part + unit * 2 + lane / 16));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        MultiplyAdd(sums[m][unit * 2], a[m], b[0], b[1]);
        MultiplyAdd(sums[m][unit * 2 + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// cos and sin of a thread's pairs in a tile: [rows: 16 m + 8 low][unit].
struct Angles {
  float2 cos[4][2];
  float2 sin[4][2];

  __device__ void Load(const Change& change, const Rope& rope, const int (&offsets)[2], int tile) {
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 128 * 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = change.Row(tile, warp_row + i * 8 + lane / 4);
      const int64_t at =
          (change.chunk.first_position + (change.Has(row) ? row : 0)) * rope.half_dim;
#pragma unroll
      for (int unit = 0; unit < 2; ++unit) {
        cos[i][unit] = __ldg(reinterpret_cast<const float2*>(rope.cos + at + offsets[unit]));
        sin[i][unit] = __ldg(reinterpret_cast<const float2*>(rope.sin + at + offsets[unit]));
      }
    }
  }
};

__device__ inline uint32_t AddTo(uint32_t word, const float2& change) {
  const __nv_bfloat162 sum = __floats2bfloat162_rn(__uint_as_float(word << 16) + change.x,
                                                   __uint_as_float(word & 0xffff0000u) + change.y);
  return *reinterpret_cast<const uint32_t*>(&sum);
}

// Rotates the change, if of K, and adds it to the tile of KV memory in shared memory.
template <int kDepth>
__device__ inline void AddChange(const Angles& angles, bool rotate, const ChangeSums& sums,
                                 uint32_t kv) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp / 4 * 32 + lane / 4, warp_part = warp % 4 * 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t words[4];
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      asm volatile("ld.shared.b32 %0, [%1];\n"
                   : "=r"(words[part])
                   : "r"(ChangeShared<kDepth>::Columns(kv, warp_row, warp_part + part) +
                         i * 8 * kTileBytes + lane % 4 * 4)
                   : "memory");
    }
#pragma unroll
    for (int unit = 0; unit < 2; ++unit) {
      const float(&first)[4] = sums[i / 2][unit * 2];
      const float(&second)[4] = sums[i / 2][unit * 2 + 1];
      const int low = i % 2 * 2;
      float2 a = {first[low], first[low + 1]}, b = {second[low], second[low + 1]};
      if (rotate) {
        const float2 cos = angles.cos[i][unit], sin = angles.sin[i][unit], x = a, y = b;
        a = {x.x * cos.x - y.x * sin.x, x.y * cos.y - y.y * sin.y};
        b = {y.x * cos.x + x.x * sin.x, y.y * cos.y + x.y * sin.y};
      }
      words[unit * 2] = AddTo(words[unit * 2], a);
      words[unit * 2 + 1] = AddTo(words[unit * 2 + 1], b);
    }
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      asm volatile("st.shared.b32 [%0], %1;\n" ::"r"(
                       ChangeShared<kDepth>::Columns(kv, warp_row, warp_part + part) +
                       i * 8 * kTileBytes + lane % 4 * 4),
                   "r"(words[part])
                   : "memory");
    }
  }
}

template <int kDepth>
__device__ inline void StoreKv(const Change& change, int tile, int64_t slot, uint32_t from) {
  if (change.column == nullptr) return;
  __nv_bfloat16* to = change.column + slot * change.head_dim;
  uint4 values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = i * (kChangeThreads / 16) + threadIdx.x / 16;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(values[i].x), "=r"(values[i].y), "=r"(values[i].z), "=r"(values[i].w)
                 : "r"(ChangeShared<kDepth>::Columns(from, row, threadIdx.x % 16))
                 : "memory");
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = i * (kChangeThreads / 16) + threadIdx.x / 16;
    if (!change.Has(change.Row(tile, row))) continue;
    *reinterpret_cast<uint4*>(to + row * change.head_dim) = values[i];
  }
}

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_CHANGE_CUH_
