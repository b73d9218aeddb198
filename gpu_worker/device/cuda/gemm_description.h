// What gemm.cc tells cuBLASLt about a product, and memory to measure with.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_DESCRIPTION_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_DESCRIPTION_H_

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/gemm_choices.h"

namespace tessera::cuda {

inline void CheckBlas(const char* op, cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "event=cuda_failed op=%s error=\"%s\" what=cublasLt\n", op,
               cublasLtGetStatusString(status));
  std::fflush(stderr);
  std::_Exit(1);
}

inline void RequireGemmShape(bool fits) {
  if (fits) return;
  std::fprintf(stderr, "event=cuda_failed op=Gemm error=\"shape\"\n");
  std::fflush(stderr);
  std::abort();
}

// Device memory for a measurement; null when there is not enough.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    if (cudaMalloc(&data_, bytes) == cudaSuccess) return;
    data_ = nullptr;
    cudaGetLastError();  // out of memory leaves the device as it was
  }
  ~Scratch() { cudaFree(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  char* data() const { return static_cast<char*>(data_); }

  // Random numbers of bf16 (as floats they are random too): a product of zeros runs faster than one
  // of real numbers.
  void Fill(size_t bytes) {
    static const std::vector<__nv_bfloat16> some = [] {
      std::mt19937 random(1);
      std::normal_distribution<float> normal;
      std::vector<__nv_bfloat16> made(size_t{1} << 19);
      for (__nv_bfloat16& x : made) x = __float2bfloat16(normal(random));
      return made;
    }();
    size_t done = std::min(bytes, some.size() * 2);
    CUDA_OR_DIE("Gemm scratch", cudaMemcpy(data_, some.data(), done, cudaMemcpyHostToDevice));
    for (; done < bytes; done *= 2) {
      CUDA_OR_DIE("Gemm scratch", cudaMemcpy(data() + done, data_, std::min(done, bytes - done),
                                             cudaMemcpyDeviceToDevice));
    }
  }

 private:
  void* data_ = nullptr;
};

// The library's description of a product, column-major: out^T [n][m] = w [n][k] x^T [k][m].
class Description {
 public:
  Description(const GemmProduct& product, int64_t m, int64_t x_stride, int64_t out_stride) {
    const cudaDataType_t out_type = product.to_float ? CUDA_R_32F : CUDA_R_16BF;
    CheckBlas("describe", cublasLtMatmulDescInit(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    Set(CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    if (product.bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      Set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
      Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(out_type));
    }
    Init(&w_, CUDA_R_16BF, product.k, product.n, product.k);
    Init(&x_, CUDA_R_16BF, product.k, m, x_stride);
    Init(&out_, out_type, product.n, m, out_stride);
  }

  void SetBias(const void* bias) { Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias); }

  cublasLtMatmulDesc_t product() { return &product_; }
  cublasLtMatrixLayout_t w() { return &w_; }
  cublasLtMatrixLayout_t x() { return &x_; }
  cublasLtMatrixLayout_t out() { return &out_; }

 private:
  template <typename T>
  void Set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    CheckBlas("describe",
              cublasLtMatmulDescSetAttribute(&product_, attribute, &value, sizeof(value)));
  }

  static void Init(cublasLtMatrixLayoutOpaque_t* layout, cudaDataType_t type, int64_t rows,
                   int64_t cols, int64_t stride) {
    CheckBlas("describe", cublasLtMatrixLayoutInit(layout, type, static_cast<uint64_t>(rows),
                                                   static_cast<uint64_t>(cols), stride));
  }

  cublasLtMatmulDescOpaque_t product_;
  cublasLtMatrixLayoutOpaque_t w_, x_, out_;
};

struct Operands {
  const void* x = nullptr;
  const void* w = nullptr;
  void* out = nullptr;
};

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_DESCRIPTION_H_
