// Chooses the shape of the kernel for a product. The choice moves no bit of the result.
#include <algorithm>

#include "gpu_worker/device/cuda/gemm_few.cuh"
#include "gpu_worker/device/cuda/gemm_few.h"

namespace tessera::cuda {
namespace {

using few::Output;
using few::Product;

// Whether a block may have the shared memory of Hopper's shapes (sm_90: 227 KiB).
bool HasLargeBlocks() {
  static const bool has = [] {
    int device = 0, bytes = 0;
    CUDA_OR_DIE("device", cudaGetDevice(&device));
    CUDA_OR_DIE("device",
                cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return bytes >= 220 * 1024;
  }();
  return has;
}

// Times that the busiest multiprocessor works on 16 rows, with tiles of `groups` times 16.
int64_t Rounds(int64_t n, int groups) {
  return groups * CeilOf(CeilOf(n, int64_t{16} * groups), few::Multiprocessors());
}

// Larger tiles read x less often, smaller ones may share the rows more evenly.
template <typename Small, typename Large>
void LaunchBetter(const Product& p, cudaStream_t stream) {
  if (Rounds(p.n, Small::kGroups) < Rounds(p.n, Large::kGroups)) {
    few::Launch<Small>(p, stream);
  } else {
    few::Launch<Large>(p, stream);
  }
}

// Below 100 KiB of shared memory, for sm_80 and sm_89.
template <typename Fewest>
void RunInSmallBlocks(const Product& p, cudaStream_t stream) {
  if (p.m <= 8) {
    few::Launch<Fewest>(p, stream);
  } else if (p.m <= 32) {
    few::Launch<few::Shape<2, 4, 1, 2, 2, 1, Fewest::kOutput>>(p, stream);
  } else {
    few::Launch<few::Shape<2, 8, 1, 1, 2, 1, Fewest::kOutput>>(p, stream);
  }
}

// Shapes by measurement on an H100. One deep ring per multiprocessor was faster than two shallow
// ones, and than rings so small that the next product's could stand beside this one's.
template <Output kOut>
void Run(const Product& p, cudaStream_t stream) {
  using few::Shape;
  if (p.m == 0 || p.n == 0) return;
  if constexpr (kOut == Output::kSwiGlu) {
    if (!HasLargeBlocks()) {
      RunInSmallBlocks<Shape<2, 1, 2, 2, 1, 1, kOut>>(p, stream);
    } else if (p.m <= 8) {
      few::Launch<Shape<2, 1, 2, 3, 1, 1, kOut>>(p, stream);
    } else if (p.m <= 16) {
      few::Launch<Shape<2, 2, 2, 4, 2, 1, kOut>>(p, stream);
    } else if (p.m <= 32) {
      few::Launch<Shape<2, 4, 2, 3, 2, 1, kOut>>(p, stream);
    } else {
      few::Launch<Shape<2, 8, 2, 2, 2, 1, kOut>>(p, stream);
    }
  } else if (!HasLargeBlocks()) {
    RunInSmallBlocks<Shape<1, 1, 2, 3, 1, 1, kOut>>(p, stream);
  } else if (p.m <= 8) {
    few::Launch<Shape<1, 1, 2, 6, 1, 1, kOut>>(p, stream);
  } else if (p.m <= 16) {
    LaunchBetter<Shape<1, 2, 2, 6, 2, 1, kOut>, Shape<2, 2, 2, 4, 2, 1, kOut>>(p, stream);
  } else if (p.m <= 32) {
    LaunchBetter<Shape<1, 4, 2, 4, 4, 1, kOut>, Shape<2, 4, 2, 3, 4, 1, kOut>>(p, stream);
  } else {
    LaunchBetter<Shape<1, 8, 2, 2, 4, 1, kOut>, Shape<2, 8, 2, 2, 4, 1, kOut>>(p, stream);
  }
}

template <typename Out>
Product ProductOf(const char* op, Bf16Rows x, const __nv_bfloat16* w, Out out) {
  RequireShape(
      op, x.rows <= kMostFewRows && x.cols % 8 == 0 && x.stride % 8 == 0 && out.rows == x.rows);
  Product p;
  p.x = x.data;
  p.w = w;
  p.out = out.data;
  p.x_stride = x.stride;
  p.out_stride = out.stride;
  p.m = static_cast<int>(x.rows);
  p.n = static_cast<int>(out.cols);
  p.k = static_cast<int>(x.cols);
  return p;
}

}  // namespace

size_t GemmFewWorkspace(int64_t /*n*/, int64_t /*k*/) { return 0; }

void GemmFew(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
             F32Rows out, void* /*workspace*/, cudaStream_t stream) {
  RequireShape("GemmFew", n == out.cols);
  Product p = ProductOf("GemmFew", x, w, out);
  p.bias = bias;
  p.accumulate = accumulate;
  Run<Output::kF32>(p, stream);
}

void GemmFew(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
             Bf16Rows out, void* /*workspace*/, cudaStream_t stream) {
  RequireShape("GemmFew", n == out.cols && !accumulate);
  Product p = ProductOf("GemmFew", x, w, out);
  p.bias = bias;
  Run<Output::kBf16>(p, stream);
}

void GemmFewSwiGlu(Bf16Rows x, const __nv_bfloat16* w, Bf16Rows out, void* /*workspace*/,
                   cudaStream_t stream) {
  Run<Output::kSwiGlu>(ProductOf("GemmFewSwiGlu", x, w, out), stream);
}

}  // namespace tessera::cuda
