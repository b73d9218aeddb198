// A thread rotates one piece of a head's first half together with its partner in the second half,
// and moves the two pieces of V that stand at the same places.
#include <algorithm>
#include <type_traits>

#include "gpu_worker/device/cuda/place.h"
#include "gpu_worker/device/cuda/rows.cuh"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostSlices = 64;

template <int N>
__device__ Floats<N> LoadFloats(const float* from) {
  Floats<N> x;
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const F32Piece piece = Load<F32Piece>(from + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) x.at[i + j] = piece.at[j];
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) x.at[i] = from[i];
  }
  return x;
}

// A piece of cos and sin at one position.
template <int N>
struct Angles {
  Floats<N> cos, sin;
};

template <int N>
__device__ Angles<N> AnglesAt(const Rope& rope, int64_t position, int j) {
  const int64_t at = position * rope.half_dim + j;
  return {LoadFloats<N>(rope.cos + at), LoadFloats<N>(rope.sin + at)};
}

// The partners j ... and j + half_dim ... of a head.
template <int N>
struct Pair {
  Piece<__nv_bfloat16, N> low, high;
};

template <int N>
__device__ Pair<N> LoadPair(const __nv_bfloat16* at, int half_dim) {
  using P = Piece<__nv_bfloat16, N>;
  return {Load<P>(at), Load<P>(at + half_dim)};
}

// A pair that no one reads again.
template <int N>
__device__ Pair<N> LoadPairOnce(const __nv_bfloat16* at, int half_dim) {
  if constexpr (N == 8) {
    Pair<N> pair;
    *reinterpret_cast<uint4*>(&pair.low) = __ldcs(reinterpret_cast<const uint4*>(at));
    *reinterpret_cast<uint4*>(&pair.high) = __ldcs(reinterpret_cast<const uint4*>(at + half_dim));
    return pair;
  } else {
    return LoadPair<N>(at, half_dim);
  }
}

template <int N>
__device__ void StorePair(__nv_bfloat16* at, int half_dim, const Pair<N>& pair) {
  Store(at, pair.low);
  Store(at + half_dim, pair.high);
}

// A pair that need not stay in the device's cache: a layer's chunks are larger. Measured faster.
template <int N>
__device__ void StorePairStreaming(__nv_bfloat16* at, int half_dim, const Pair<N>& pair) {
  if constexpr (N == 8) {
    __stcs(reinterpret_cast<uint4*>(at), *reinterpret_cast<const uint4*>(&pair.low));
    __stcs(reinterpret_cast<uint4*>(at + half_dim), *reinterpret_cast<const uint4*>(&pair.high));
  } else {
    StorePair(at, half_dim, pair);
  }
}

template <int N>
__device__ Pair<N> Rotated(const Pair<N>& pair, const Angles<N>& angles) {
  const Floats<N> a = Widened(pair.low), b = Widened(pair.high);
  Floats<N> low, high;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    low.at[i] = a.at[i] * angles.cos.at[i] - b.at[i] * angles.sin.at[i];
    high.at[i] = b.at[i] * angles.cos.at[i] + a.at[i] * angles.sin.at[i];
  }
  return {Narrowed(low), Narrowed(high)};
}

// Of head `head` at slot `slot`, in numbers from the layer's beginning.
__device__ int64_t SlotOffset(const KvView& kv, const int32_t* blocks, int head, int64_t slot) {
  constexpr int kBlock = KvView::kBlockSlots;
  if (blocks != nullptr) slot = int64_t{blocks[slot / kBlock]} * kBlock + slot % kBlock;
  return (head * kv.head_slots + slot) * kv.head_dim;
}

struct Writes {
  Bf16Rows q, k, v;
  const int32_t* positions = nullptr;
  const int32_t* tables = nullptr;  // null: all rows go to kv.blocks
  int table_width = 0;
  Rope rope;
  KvView kv;
  int q_heads = 0, kv_heads = 0;
};

// Threads along x go over the pairs of a row, q's heads first; blocks along y over rows.
template <int N>
__global__ void __launch_bounds__(kThreads)
    RotateAndWriteKernel(const __grid_constant__ Writes writes) {
  LetNextStart();
  AwaitLast();
  const int half = writes.rope.half_dim, per_head = half / N;
  const int unit = blockIdx.x * blockDim.x + threadIdx.x;
  int head = unit / per_head;
  const int j = (unit - head * per_head) * N;
  if (head >= writes.q_heads + writes.kv_heads) return;
  const bool of_q = head < writes.q_heads;
  if (!of_q) head -= writes.q_heads;
  for (int64_t r = blockIdx.y; r < writes.k.rows; r += gridDim.y) {
    const int32_t position = writes.positions[r];
    const Angles<N> angles = AnglesAt<N>(writes.rope, position, j);
    const int64_t column = int64_t{head} * 2 * half + j;
    if (of_q) {
      __nv_bfloat16* q = writes.q.data + r * writes.q.stride + column;
      StorePair(q, half, Rotated(LoadPair<N>(q, half), angles));
      continue;
    }
    const Pair<N> k = LoadPair<N>(writes.k.data + r * writes.k.stride + column, half);
    const Pair<N> v = LoadPair<N>(writes.v.data + r * writes.v.stride + column, half);
    const int32_t* blocks =
        writes.tables != nullptr ? writes.tables + r * writes.table_width : writes.kv.blocks;
    const int64_t at = SlotOffset(writes.kv, blocks, head, position) + j;
    StorePair(writes.kv.k + at, half, Rotated(k, angles));
    StorePair(writes.kv.v + at, half, v);
  }
}

struct Slices {
  Slice at[kMostSlices];
};

// A thread per pair of a token; blockIdx.y: which slice.
template <int N>
__global__ void __launch_bounds__(kThreads)
    PlaceKernel(const __grid_constant__ Slices slices, const __grid_constant__ Rope rope,
                const __grid_constant__ KvView kv) {
  LetNextStart();
  AwaitLast();
  const Slice& slice = slices.at[blockIdx.y];
  const int half = rope.half_dim, per_head = half / N;
  const int unit = blockIdx.x * kThreads + threadIdx.x;
  const int head_of_slice = unit / per_head, t = head_of_slice / kv.kv_heads;
  if (t >= slice.tokens) return;
  const int head = head_of_slice - t * kv.kv_heads, j = (unit - head_of_slice * per_head) * N;
  const int64_t from = int64_t{head_of_slice} * kv.head_dim + j;
  const Pair<N> k = LoadPairOnce<N>(slice.k + from, half);
  const Pair<N> v = LoadPairOnce<N>(slice.v + from, half);
  const int64_t position = int64_t{slice.first} + t;
  const Angles<N> angles = AnglesAt<N>(rope, position, j);
  const int64_t at = SlotOffset(kv, kv.blocks, head, position) + j;
  StorePairStreaming(kv.v + at, half, v);
  StorePairStreaming(kv.k + at, half, Rotated(k, angles));
}

// Calls `launch` with the widest piece that fits halves of heads, and strides, as a constant.
template <typename Launch>
void WithPiece(int64_t half_dim, int64_t strides, Launch launch) {
  if (half_dim % 8 == 0 && strides % 8 == 0) {
    launch(std::integral_constant<int, 8>());
  } else if (half_dim % 4 == 0 && strides % 4 == 0) {
    launch(std::integral_constant<int, 4>());
  } else {
    launch(std::integral_constant<int, 1>());
  }
}

void Launch(const char* op, Writes writes, cudaStream_t stream) {
  const int64_t head_dim = 2 * int64_t{writes.rope.half_dim};
  RequireShape(op, head_dim > 0 && writes.q.cols % head_dim == 0);
  writes.q_heads = static_cast<int>(writes.q.cols / head_dim);
  if (writes.kv.k != nullptr) {
    writes.kv_heads = writes.kv.kv_heads;
    RequireShape(op, writes.kv.head_dim == head_dim && writes.v.rows == writes.k.rows &&
                         writes.k.cols == writes.kv_heads * head_dim &&
                         writes.v.cols == writes.k.cols);
  }
  const int64_t rows = writes.k.rows;
  if (rows == 0) return;
  const int64_t strides = writes.q.stride | writes.k.stride | writes.v.stride;
  WithPiece(writes.rope.half_dim, strides, [&](auto piece) {
    constexpr int kPiece = decltype(piece)::value;
    const int64_t pairs =
        (writes.q_heads + writes.kv_heads) * int64_t{writes.rope.half_dim} / kPiece;
    // Blocks share a row evenly; few rows get small ones, to reach more multiprocessors.
    const int64_t blocks = CeilOf(pairs, rows < 64 ? 64 : kThreads);
    const int64_t threads = CeilOf(CeilOf(pairs, blocks), 32) * 32;
    const dim3 grid(static_cast<unsigned>(CeilOf(pairs, threads)),
                    static_cast<unsigned>(std::min(rows, kMostGridY)));
    LaunchOverlapped(op, RotateAndWriteKernel<kPiece>, grid, dim3(static_cast<unsigned>(threads)),
                     0, stream, writes);
  });
}

}  // namespace

void RotateRows(Bf16Rows x, const int32_t* positions, const Rope& rope, cudaStream_t stream) {
  Writes writes;
  writes.q = x;
  writes.k.rows = x.rows;
  writes.positions = positions;
  writes.rope = rope;
  Launch("RotateRows", writes, stream);
}

void WriteKv(Bf16Rows k, Bf16Rows v, const int32_t* positions, const Rope& rope, const KvView& kv,
             cudaStream_t stream) {
  RotateAndWrite({}, k, v, positions, nullptr, 0, rope, kv, stream);
}

void RotateAndWrite(Bf16Rows q, Bf16Rows k, Bf16Rows v, const int32_t* positions, const Rope& rope,
                    const KvView& kv, cudaStream_t stream) {
  RotateAndWrite(q, k, v, positions, nullptr, 0, rope, kv, stream);
}

void RotateAndWrite(Bf16Rows q, Bf16Rows k, Bf16Rows v, const int32_t* positions,
                    const int32_t* tables, int table_width, const Rope& rope, const KvView& kv,
                    cudaStream_t stream) {
  RequireShape("RotateAndWrite", q.data == nullptr || q.rows == k.rows);
  Writes writes;
  writes.q = q;
  writes.k = k;
  writes.v = v;
  writes.positions = positions;
  writes.tables = tables;
  writes.table_width = table_width;
  writes.rope = rope;
  writes.kv = kv;
  Launch(q.data == nullptr ? "WriteKv" : "RotateAndWrite", writes, stream);
}

void PlaceSlices(const Slice* slices, int count, const Rope& rope, const KvView& kv,
                 cudaStream_t stream) {
  RequireShape("PlaceSlices", kv.head_dim == 2 * rope.half_dim);
  WithPiece(rope.half_dim, 0, [&](auto piece) {
    constexpr int kPiece = decltype(piece)::value;
    const int64_t per_token = int64_t{kv.kv_heads} * (rope.half_dim / kPiece);
    for (int first = 0; first < count; first += kMostSlices) {
      const int some = std::min(kMostSlices, count - first);
      Slices group;
      std::copy_n(slices + first, some, group.at);
      int64_t most = 0;
      for (int i = 0; i < some; ++i) most = std::max<int64_t>(most, group.at[i].tokens);
      if (most == 0) continue;
      const dim3 grid(static_cast<unsigned>(CeilOf(most * per_token, kThreads)),
                      static_cast<unsigned>(some));
      LaunchOverlapped("PlaceSlices", PlaceKernel<kPiece>, grid, dim3(kThreads), 0, stream, group,
                       rope, kv);
    }
  });
}

}  // namespace tessera::cuda
