// Kernels over rows: a thread handles 8 numbers (16 bytes of bf16) at a time, neighbours in a warp
// are neighbours in memory.
#include <algorithm>

#include "gpu_worker/device/cuda/rows.cuh"
#include "gpu_worker/device/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 256;

// One thread per piece of a row in x, rows over y; blocks share a row evenly. Few rows get blocks
// of 64 threads, to reach more multiprocessors.
struct Layout {
  dim3 grid, block;
};

Layout LayoutOf(int64_t rows, int64_t pieces) {
  const int most = rows * pieces >= 132 * kThreads ? kThreads : 64;
  const int64_t used = CeilOf(CeilOf(pieces, CeilOf(pieces, most)), 32) * 32;
  return {dim3(static_cast<unsigned>(CeilOf(pieces, used)),
               static_cast<unsigned>(std::min(rows, kMostGridY))),
          dim3(static_cast<unsigned>(used))};
}

__global__ void EmbedKernel(const __nv_bfloat16* table, const uint32_t* ids, F32Rows out) {
  LetNextStart();
  AwaitLast();
  const int64_t c = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 8;
  if (c >= out.cols) return;
  for (int64_t r = blockIdx.y; r < out.rows; r += gridDim.y) {
    const Bf16Piece x = Load<Bf16Piece>(table + int64_t{ids[r]} * out.cols + c);
    Store8(out.data + r * out.stride + c, Widened(x));
  }
}

__device__ float SumOfWarp(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// The sum over all threads of a block of whole warps.
__device__ float SumOfBlock(float x) {
  __shared__ float sums[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  x = SumOfWarp(x);
  if (lane == 0) sums[warp] = x;
  __syncthreads();
  return SumOfWarp(lane < warps ? sums[lane] : 0.0f);
}

// A block per row, which stays in registers: kPieces times 8 numbers per thread. The gains are
// constants, so they are read before the last kernel has ended.
template <int kPieces>
__global__ void __launch_bounds__(1024)
    RmsNormKernel(F32Rows x, const float* gain, float eps, Bf16Rows out) {
  LetNextStart();
  Floats<8> pieces[kPieces], gains[kPieces];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int c = (p * blockDim.x + threadIdx.x) * 8;
    gains[p] = c < x.cols ? Load8(gain + c) : Floats<8>{};
  }
  AwaitLast();
  const float* from = x.data + int64_t{blockIdx.x} * x.stride;
  __nv_bfloat16* to = out.data + int64_t{blockIdx.x} * out.stride;
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int c = (p * blockDim.x + threadIdx.x) * 8;
    pieces[p] = c < x.cols ? Load8(from + c) : Floats<8>{};
#pragma unroll
    for (float value : pieces[p].at) sum += value * value;
  }
  const float scale = 1.0f / sqrtf(SumOfBlock(sum) / static_cast<float>(x.cols) + eps);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int c = (p * blockDim.x + threadIdx.x) * 8;
    if (c >= x.cols) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) pieces[p].at[i] *= scale * gains[p].at[i];
    Store(to + c, Narrowed(pieces[p]));
  }
}

// A group of kLanes lanes per head.
template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    RmsNormHeadsKernel(Bf16Rows x, const float* gain, int head_dim, float eps) {
  constexpr int kPieces = kLanes == 32 ? 2 : 1;
  LetNextStart();
  const int lane = threadIdx.x % kLanes;
  Floats<8> pieces[kPieces], gains[kPieces];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int c = (p * kLanes + lane) * 8;
    gains[p] = c < head_dim ? Load8(gain + c) : Floats<8>{};
  }
  AwaitLast();
  const int heads = static_cast<int>(x.cols) / head_dim;
  const int64_t group = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes;
  const bool real = group < x.rows * heads;
  __nv_bfloat16* head =
      real ? x.data + group / heads * x.stride + group % heads * head_dim : x.data;
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int c = (p * kLanes + lane) * 8;
    pieces[p] = real && c < head_dim ? Widened(Load<Bf16Piece>(head + c)) : Floats<8>{};
#pragma unroll
    for (float value : pieces[p].at) sum += value * value;
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(head_dim) + eps);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int c = (p * kLanes + lane) * 8;
    if (!real || c >= head_dim) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) pieces[p].at[i] *= scale * gains[p].at[i];
    Store(head + c, Narrowed(pieces[p]));
  }
}

__global__ void SwiGluKernel(Bf16Rows gate, Bf16Rows up) {
  LetNextStart();
  AwaitLast();
  const int64_t c = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 8;
  if (c >= gate.cols) return;
  for (int64_t r = blockIdx.y; r < gate.rows; r += gridDim.y) {
    __nv_bfloat16* to = gate.data + r * gate.stride + c;
    Floats<8> g = Widened(Load<Bf16Piece>(to));
    const Floats<8> u = Widened(Load<Bf16Piece>(up.data + r * up.stride + c));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      g.at[i] = __fdividef(g.at[i], 1.0f + __expf(-g.at[i])) * u.at[i];
    }
    Store(to, Narrowed(g));
  }
}

// Rows of 16-byte pieces; strides are in pieces.
struct Copy {
  const uint4* from = nullptr;
  uint4* to = nullptr;
  int64_t from_stride = 0, to_stride = 0;
};

// blockIdx.z: which copy.
__global__ void CopyKernel(Copy first, Copy second, const int32_t* indexes, int64_t rows,
                           int64_t pieces) {
  LetNextStart();
  AwaitLast();
  const Copy copy = blockIdx.z == 0 ? first : second;
  const int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= pieces) return;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    const int64_t from = indexes != nullptr ? indexes[r] : r;
    copy.to[r * copy.to_stride + c] = copy.from[from * copy.from_stride + c];
  }
}

template <typename T>
Copy CopyOf(Rows<T> from, Rows<T> to) {
  constexpr int64_t kPiece = 16 / sizeof(T);
  RequireShape("CopyRows", to.cols % kPiece == 0 && from.cols == to.cols &&
                               from.stride % kPiece == 0 && to.stride % kPiece == 0);
  return {reinterpret_cast<const uint4*>(from.data), reinterpret_cast<uint4*>(to.data),
          from.stride / kPiece, to.stride / kPiece};
}

template <typename T>
void Gather(const char* op, Rows<T> x, const int32_t* rows, Rows<T> out, cudaStream_t stream) {
  if (out.rows == 0) return;
  const int64_t pieces = out.cols / (16 / static_cast<int64_t>(sizeof(T)));
  const Layout layout = LayoutOf(out.rows, pieces);
  LaunchOverlapped(op, CopyKernel, layout.grid, layout.block, 0, stream, CopyOf(x, out), Copy{},
                   rows, out.rows, pieces);
}

__global__ void F32ToBf16Kernel(F32Rows from, Bf16Rows to, bool aligned) {
  LetNextStart();
  AwaitLast();
  const int64_t c = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 8;
  if (c >= to.cols) return;
  for (int64_t r = blockIdx.y; r < to.rows; r += gridDim.y) {
    const float* x = from.data + r * from.stride + c;
    __nv_bfloat16* y = to.data + r * to.stride + c;
    if (aligned && c + 8 <= to.cols) {
      Store(y, Narrowed(Load8(x)));
    } else {
      for (int64_t i = 0; i < 8 && c + i < to.cols; ++i) y[i] = __float2bfloat16_rn(x[i]);
    }
  }
}

constexpr int kDeviationRows = kThreads / 32;  // a warp per row
constexpr int kMostSlices = 64;

struct Slices {
  Slice at[kMostSlices];
};

__global__ void __launch_bounds__(kThreads)
    DeviationKernel(Bf16Rows fresh, const __grid_constant__ Slices slices, bool of_v,
                    float* scores) {
  LetNextStart();
  AwaitLast();
  const Slice& slice = slices.at[blockIdx.y];
  const int t = blockIdx.x * kDeviationRows + threadIdx.x / 32;
  if (t >= slice.tokens) return;
  const int lane = threadIdx.x % 32;
  const __nv_bfloat16* a = fresh.data + (int64_t{slice.first} + t) * fresh.stride;
  const __nv_bfloat16* b = (of_v ? slice.v : slice.k) + t * fresh.cols;
  float sum = 0;
#pragma unroll 4
  for (int64_t c = lane * 8; c < fresh.cols; c += 256) {
    const Floats<8> x = Widened(Load<Bf16Piece>(a + c)), y = Widened(Load<Bf16Piece>(b + c));
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += (x.at[i] - y.at[i]) * (x.at[i] - y.at[i]);
  }
  sum = SumOfWarp(sum);
  if (lane == 0) scores[slice.first + t] = sum;
}

}  // namespace

void EmbedRows(const __nv_bfloat16* table, int64_t cols, const uint32_t* ids, F32Rows out,
               cudaStream_t stream) {
  RequireShape("EmbedRows", cols == out.cols && cols % 8 == 0 && out.stride % 4 == 0);
  if (out.rows == 0) return;
  const Layout layout = LayoutOf(out.rows, cols / 8);
  LaunchOverlapped("EmbedRows", EmbedKernel, layout.grid, layout.block, 0, stream, table, ids, out);
}

void RmsNorm(F32Rows x, const float* gain, float eps, Bf16Rows out, cudaStream_t stream) {
  RequireShape("RmsNorm", x.rows == out.rows && x.cols == out.cols && x.cols % 8 == 0 &&
                              x.cols <= 16384 && x.stride % 4 == 0 && out.stride % 8 == 0);
  if (x.rows == 0) return;
  const int64_t pieces = x.cols / 8;
  const bool two = pieces > 1024;
  const int64_t threads = CeilOf(two ? CeilOf(pieces, 2) : pieces, 32) * 32;
  LaunchOverlapped("RmsNorm", two ? RmsNormKernel<2> : RmsNormKernel<1>,
                   dim3(static_cast<unsigned>(x.rows)), dim3(static_cast<unsigned>(threads)), 0,
                   stream, x, gain, eps, out);
}

void RmsNormHeads(Bf16Rows x, const float* gain, int head_dim, float eps, cudaStream_t stream) {
  RequireShape("RmsNormHeads", head_dim > 0 && head_dim % 8 == 0 && head_dim <= 512 &&
                                   x.cols % head_dim == 0 && x.stride % 8 == 0);
  if (x.rows == 0) return;
  const int pieces = head_dim / 8;
  auto launch = [&](auto kernel, int lanes) {
    const int64_t groups = x.rows * (x.cols / head_dim);
    const dim3 grid(static_cast<unsigned>(CeilOf(groups * lanes, kThreads)));
    LaunchOverlapped("RmsNormHeads", kernel, grid, dim3(kThreads), 0, stream, x, gain, head_dim,
                     eps);
  };
  if (pieces <= 8) {
    launch(RmsNormHeadsKernel<8>, 8);
  } else if (pieces <= 16) {
    launch(RmsNormHeadsKernel<16>, 16);
  } else {
    launch(RmsNormHeadsKernel<32>, 32);
  }
}

void SwiGlu(Bf16Rows gate, Bf16Rows up, cudaStream_t stream) {
  RequireShape("SwiGlu", gate.rows == up.rows && gate.cols == up.cols && gate.cols % 8 == 0 &&
                             gate.stride % 8 == 0 && up.stride % 8 == 0);
  if (gate.rows == 0) return;
  const Layout layout = LayoutOf(gate.rows, gate.cols / 8);
  LaunchOverlapped("SwiGlu", SwiGluKernel, layout.grid, layout.block, 0, stream, gate, up);
}

void GatherRowsF32(F32Rows x, const int32_t* rows, F32Rows out, cudaStream_t stream) {
  Gather("GatherRowsF32", x, rows, out, stream);
}

void GatherRowsBf16(Bf16Rows x, const int32_t* rows, Bf16Rows out, cudaStream_t stream) {
  Gather("GatherRowsBf16", x, rows, out, stream);
}

void CopyRows(Bf16Rows from, Bf16Rows to, cudaStream_t stream) {
  RequireShape("CopyRows", from.rows == to.rows);
  Gather("CopyRows", from, nullptr, to, stream);
}

void F32ToBf16(F32Rows from, Bf16Rows to, cudaStream_t stream) {
  RequireShape("F32ToBf16", from.rows == to.rows && from.cols == to.cols);
  if (to.rows == 0) return;
  const bool aligned = from.stride % 4 == 0 && to.stride % 8 == 0 &&
                       reinterpret_cast<uintptr_t>(from.data) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(to.data) % 16 == 0;
  const Layout layout = LayoutOf(to.rows, CeilOf(to.cols, 8));
  LaunchOverlapped("F32ToBf16", F32ToBf16Kernel, layout.grid, layout.block, 0, stream, from, to,
                   aligned);
}

void Deviation(Bf16Rows fresh, const Slice* slices, int count, bool of_v, float* scores,
               cudaStream_t stream) {
  RequireShape("Deviation", fresh.cols % 8 == 0 && fresh.stride % 8 == 0);
  for (int first = 0; first < count; first += kMostSlices) {
    const int some = std::min(kMostSlices, count - first);
    Slices group;
    std::copy_n(slices + first, some, group.at);
    int most = 0;
    for (int i = 0; i < some; ++i) most = std::max(most, group.at[i].tokens);
    if (most == 0) continue;
    const dim3 grid(static_cast<unsigned>(CeilOf(most, kDeviationRows)),
                    static_cast<unsigned>(some));
    LaunchOverlapped("Deviation", DeviationKernel, grid, dim3(kThreads), 0, stream, fresh, group,
                     of_v, scores);
  }
}

void RoundToSlice(Bf16Rows k, Bf16Rows v, __nv_bfloat16* slice_k, __nv_bfloat16* slice_v,
                  cudaStream_t stream) {
  RequireShape("RoundToSlice", k.rows == v.rows && k.cols == v.cols);
  if (k.rows == 0) return;
  const int64_t pieces = k.cols / 8;
  Layout layout = LayoutOf(k.rows, pieces);
  layout.grid.z = 2;
  LaunchOverlapped("RoundToSlice", CopyKernel, layout.grid, layout.block, 0, stream,
                   CopyOf(k, Bf16Rows{slice_k, k.rows, k.cols, k.cols}),
                   CopyOf(v, Bf16Rows{slice_v, v.rows, v.cols, v.cols}),
                   static_cast<const int32_t*>(nullptr), k.rows, pieces);
}

}  // namespace tessera::cuda
