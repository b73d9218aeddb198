// The change by wgmma (sm_90a), for heads of 64 or 128. A block of threads has 128 columns, whose
// deviations it keeps in shared memory; its warpgroups go down the rows, each with a tile of its
// own.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_CHANGE_WGMMA_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_CHANGE_WGMMA_CUH_

#include "gpu_worker/device/cuda/correction_change.cuh"
#include "gpu_worker/device/cuda/correction_wgmma.cuh"

namespace tessera::cuda {

constexpr int kHopperColumns = 128;
constexpr int kHopperKvBytes = kChangeRows * kHopperColumns * 2;  // a tile of KV memory

// How a block of threads works, for chunks of up to `cols` picked rows.
struct HopperShape {
  int warpgroups = 0;
  int stages = 0;  // tiles of KV memory that a warpgroup has in shared memory

  // Deviations; for each warpgroup a tile of W and the stages; barriers.
  __host__ __device__ int Bytes(int cols) const {
    return cols * kHopperColumns * 2 +
           warpgroups * (WeightsTileNumbers(cols) * 2 + stages * kHopperKvBytes) + 128;
  }
};

#if TESSERA_CORRECTION_WGMMA

// A thread's part of the block's change. Columns are dealt so that a thread of the product has
// whole groups of 8: group g is the thread's with lane % 4 == g % 4, its pair i of columns is quad
// g / 4 * 4 + i.
template <int kHeadDim>
struct HopperChange {
  static constexpr int kHeads = kHopperColumns / kHeadDim;

  ChunkOnDevice chunk;
  const CachedRow* picked_rows;
  const float* norms;
  const __nv_bfloat16* weights;
  __nv_bfloat16* kv;     // the columns' first number in KV memory's row 0
  int64_t head_numbers;  // of a head in KV memory
  int64_t first_block;
  int shift;
  int heads;    // of the columns that there are
  int feature;  // the columns' first in a row of K or V
  bool is_v;

  __device__ HopperChange(const CorrectionDevice& device, const KvView& view, int chunk_index,
                          int tile)
      : chunk(device.chunks[chunk_index]) {
    const int tiles = gridDim.x / 2;
    is_v = tile >= tiles;
    const int first_head = (tile - (is_v ? tiles : 0)) * kHeads;
    picked_rows =
        device.picked_rows + device.first_layer * int64_t{device.picked} + chunk.first_picked;
    norms = device.norms + chunk.first_picked;
    weights = device.weights + device.first_layer * device.weights_per_layer + chunk.weights;
    head_numbers = view.head_slots * kHeadDim;
    kv = (is_v ? view.v : view.k) + first_head * head_numbers;
    first_block = chunk.first_position / KvView::kBlockSlots;
    shift = static_cast<int>(chunk.first_position % KvView::kBlockSlots);
    heads = min(kHeads, device.heads - first_head);
    feature = first_head * kHeadDim;
  }

  __device__ bool Has(int row) const { return row >= 0 && row < chunk.rows; }
};

// A group of 8 columns of some picked rows, fresh and cached: rows i, i + blockDim.x / 16, ... They
// are fetched in two steps, of which each is many loads at once: latency is all there is to it.
struct HopperDeviations {
  static constexpr int kBatch = 7;
  const __nv_bfloat16* cached_rows[kBatch];
  int32_t fresh_rows[kBatch];
  uint4 fresh[kBatch];
  uint4 cached[kBatch];

  template <int kHeadDim>
  __device__ void FindRows(const HopperChange<kHeadDim>& change, int i) {
#pragma unroll
    for (int j = 0; j < kBatch; ++j, i += blockDim.x / 16) {
      const int row = min(i, change.chunk.picked_count - 1);
      cached_rows[j] = change.is_v ? change.picked_rows[row].v : change.picked_rows[row].k;
      fresh_rows[j] = __ldg(change.chunk.fresh_rows + row);
    }
  }

  template <int kHeadDim>
  __device__ void Load(const HopperChange<kHeadDim>& change, const Fresh& rows) {
    // Past the last head a group of another is read, and dropped by Store.
    const int group = min(static_cast<int>(threadIdx.x % 16), change.heads * kHeadDim / 8 - 1);
    const int feature = change.feature + group * 8;
    const __nv_bfloat16* base = (change.is_v ? rows.v : rows.k) + feature;
    const int64_t stride = change.is_v ? rows.v_stride : rows.k_stride;
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      fresh[j] = __ldg(reinterpret_cast<const uint4*>(base + fresh_rows[j] * stride));
      cached[j] = __ldg(reinterpret_cast<const uint4*>(cached_rows[j] + feature));
    }
  }

  // Puts the deviations, none longer than `longest`, in shared memory.
  template <int kHeadDim>
  __device__ void Store(const HopperChange<kHeadDim>& change, float longest, int i,
                        uint32_t to) const {
    const int group = threadIdx.x % 16;
    const bool has_group = group * 8 < change.heads * kHeadDim;
    // Blocks of 64 columns; see TransposedDescriptor.
    to += group / 8 * change.chunk.cols * 128 + group % 4 * 4;
    float factors[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int row = i + j * static_cast<int>(blockDim.x / 16);
      const float norm = change.norms[min(row, change.chunk.picked_count - 1)];
      factors[j] = norm > longest ? longest / norm : 1;
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j, i += blockDim.x / 16) {
      if (i >= change.chunk.cols) break;
      const bool valid = has_group && i < change.chunk.picked_count;
      float deviation[8], old[8];
      Widen(fresh[j], deviation);
      Widen(cached[j], old);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const __nv_bfloat162 two =
            __floats2bfloat162_rn((deviation[2 * e] - old[2 * e]) * factors[j],
                                  (deviation[2 * e + 1] - old[2 * e + 1]) * factors[j]);
        const uint32_t word = valid ? *reinterpret_cast<const uint32_t*>(&two) : 0;
        asm volatile("st.shared.b32 [%0], %1;\n" ::"r"(Swizzled<128>(to, i, group / 4 % 2 * 4 + e)),
                     "r"(word)
                     : "memory");
      }
    }
  }
};

// The rows of a tile that the chunk has.
struct TileRows {
  int first;
  int count;

  template <int kHeadDim>
  __device__ TileRows(const HopperChange<kHeadDim>& change, int tile) {
    const int begin = tile * kChangeRows - change.shift;  // the tile's first row in the chunk
    first = max(0, -begin);
    count = min(kChangeRows, change.chunk.rows - begin) - first;
  }
};

// Copies a tile of KV memory to shared memory, [head][slot][kHeadDim]; by one thread.
template <int kHeadDim>
__device__ inline void CopyKvTile(const HopperChange<kHeadDim>& change, int tile, int64_t slot,
                                  uint32_t to, uint32_t barrier) {
  const TileRows rows(change, tile);
  const uint32_t bytes = rows.count * kHeadDim * 2;
  ExpectBytes(barrier, bytes * change.heads);
  for (int head = 0; head < change.heads; ++head) {
    CopyBulk(to + (head * kChangeRows + rows.first) * kHeadDim * 2,
             change.kv + head * change.head_numbers + (slot + rows.first) * kHeadDim, bytes,
             barrier);
  }
}

__device__ inline void LoadFloats(const float* from, float (&to)[8]) {
  *reinterpret_cast<float4*>(to) = __ldg(reinterpret_cast<const float4*>(from));
  *reinterpret_cast<float4*>(to + 4) = __ldg(reinterpret_cast<const float4*>(from + 4));
}

// cos and sin of a thread's part of a tile of K: [row, row + 8][pair of groups]. Both heads of 64
// have the same. They are read once and then turned from tile to tile, since reading the table for
// each would be most of what L2 has to bring: angles grow linearly with the position, and f32 loses
// less over a few turns than the table's own angles have lost.
template <int kHeadDim>
struct HopperAngles {
  static constexpr int kPairs = kHeadDim / 64;
  float cos[2][kPairs][8];
  float sin[2][kPairs][8];

  // at: the position of the tile's first slot.
  __device__ void Load(const Rope& rope, const TileRows& rows, int64_t at) {
    const int in_tile = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int low = 0; low < 2; ++low) {
      const int row = min(in_tile + low * 8, rows.first + rows.count - 1);
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const int64_t from = (at + row) * rope.half_dim + pair * 32 + threadIdx.x % 4 * 8;
        LoadFloats(rope.cos + from, cos[low][pair]);
        LoadFloats(rope.sin + from, sin[low][pair]);
      }
    }
  }

  // turn: shared memory, [cos, sin][kHeadDim / 2].
  __device__ void Turn(const float* turn) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
      for (int part = 0; part < 8; part += 4) {
        const float* from = turn + pair * 32 + threadIdx.x % 4 * 8 + part;
        const float4 c = *reinterpret_cast<const float4*>(from);
        const float4 s = *reinterpret_cast<const float4*>(from + kHeadDim / 2);
        const float turn_cos[4] = {c.x, c.y, c.z, c.w}, turn_sin[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          float& x = cos[e / 4][pair][part + e % 4];
          float& y = sin[e / 4][pair][part + e % 4];
          const float old = x;
          x = old * turn_cos[e % 4] - y * turn_sin[e % 4];
          y = y * turn_cos[e % 4] + old * turn_sin[e % 4];
        }
      }
    }
  }
};

// The turn by some positions. The table's numbers may have a common factor, of which a turn is
// free: the cosine at position 0. Fetched by one call and put into shared memory by another, since
// there is other work between.
template <int kHeadDim>
struct HopperTurn {
  float factor, cos, sin;

  __device__ void Load(const Rope& rope, int positions) {
    const int j = threadIdx.x % (kHeadDim / 2);
    factor = __ldg(rope.cos + j);
    cos = __ldg(rope.cos + positions * int64_t{rope.half_dim} + j);
    sin = __ldg(rope.sin + positions * int64_t{rope.half_dim} + j);
  }
  __device__ void Store(float* turn) const {
    if (threadIdx.x >= kHeadDim / 2) return;
    turn[threadIdx.x] = cos / factor;
    turn[kHeadDim / 2 + threadIdx.x] = sin / factor;
  }
};

// A group of KV memory in shared memory plus its change.
__device__ inline uint4 AddGroup(uint32_t kv, const float (&change)[8]) {
  uint32_t words[4];
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(kv)
               : "memory");
#pragma unroll
  for (int i = 0; i < 4; ++i) words[i] = AddTo(words[i], {change[2 * i], change[2 * i + 1]});
  return {words[0], words[1], words[2], words[3]};
}

// Rotates the change, if told to, adds it to the tile of KV memory in shared memory and writes the
// sum to where the tile came from.
template <int kHeadDim, bool kRotate>
__device__ inline void WriteChange(const HopperChange<kHeadDim>& change,
                                   const HopperAngles<kHeadDim>& angles, const float (&sums)[16][4],
                                   const TileRows& rows, int64_t slot, uint32_t kv) {
  constexpr int kApart = kHeadDim / 64;  // groups, in fours, from a half of a head to the other
  const int in_tile = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
  for (int low = 0; low < 2; ++low) {
    const int row = in_tile + low * 8;
    if (row < rows.first || row >= rows.first + rows.count) continue;
    const int at = row * kHeadDim + threadIdx.x % 4 * 8;  // in a head's tile
    __nv_bfloat16* const to = change.kv + slot * kHeadDim + at;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      // Groups 4 i + lane % 4 of the first half of a head's numbers, 4 j + lane % 4 of the second.
      const int i = kHeadDim == 128 ? pair : 2 * pair, j = i + kApart;
      const int head = i * 32 / kHeadDim, first_at = i * 32 % kHeadDim, apart = kHeadDim / 2;
      if (head >= change.heads) continue;
      float first[8], second[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float x = sums[4 * i + e / 2][2 * low + e % 2];
        const float y = sums[4 * j + e / 2][2 * low + e % 2];
        const float cos = kRotate ? angles.cos[low][pair % angles.kPairs][e] : 1;
        const float sin = kRotate ? angles.sin[low][pair % angles.kPairs][e] : 0;
        first[e] = kRotate ? x * cos - y * sin : x;
        second[e] = kRotate ? y * cos + x * sin : y;
      }
      const uint32_t from = kv + (head * kChangeRows * kHeadDim + at + first_at) * 2;
      __nv_bfloat16* const head_to = to + head * change.head_numbers + first_at;
      *reinterpret_cast<uint4*>(head_to) = AddGroup(from, first);
      *reinterpret_cast<uint4*>(head_to + apart) = AddGroup(from + apart * 2, second);
    }
  }
}

// sums = the warpgroup's tile of W times the deviations.
__device__ inline void MultiplyDeviations(float (&sums)[16][4], uint32_t weights,
                                          uint32_t deviations, int cols) {
  const uint64_t a = MatrixDescriptor<64>(weights);
  const uint64_t b = TransposedDescriptor(deviations, cols * 128);
#pragma unroll
  for (int i = 0; i < 64; ++i) sums[i / 4][i % 4] = 0;
  BeginProducts();
#pragma unroll 1
  for (int step = 0; step < cols / 16; ++step) {
    // 16 picked rows are half a row of a block of W, and 16 rows of 128 bytes of the deviations.
    Multiply64x128(sums, a + (step / 2 * (kChangeRows * 64 / 16) + step % 2 * 2),
                   b + step * (16 * 128 / 16));
  }
  CommitProducts();
}

#endif  // TESSERA_CORRECTION_WGMMA

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_CHANGE_WGMMA_CUH_
