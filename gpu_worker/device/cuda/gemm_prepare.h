// Chooses the algorithms of a model's products at a start, and keeps the choices in a file for the
// next one. It needs no CUDA: who calls says how a product is measured.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_PREPARE_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_PREPARE_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gpu_worker/device/cuda/gemm_choices.h"

namespace tessera::cuda {

// The bytes of a file. Text, so that one can be read and compared:
//   tessera products 1
//   card NVIDIA H100 80GB HBM3
//   compute 9.0
//   cublaslt 130101
//   driver 13000
//   N K TO_FLOAT ACCUMULATE BIAS ROWS RANK CANDIDATES US FIRST_US and 8 words of the algorithm in
//     hexadecimal, for each product and number of rows
//   xxh3 HEX, of all bytes before this line
std::string EncodeGemmChoices(const GemmPlatform& platform, const GemmChoices& choices);

// INVALID_ARGUMENT: the bytes are damaged, or of another format. FAILED_PRECONDITION: they are of
// another platform.
absl::StatusOr<GemmChoices> DecodeGemmChoices(absl::string_view bytes,
                                              const GemmPlatform& platform);

// A product, and of how many rows it will be made at most.
struct GemmNeed {
  GemmProduct product;
  int64_t most_rows = 0;
};

struct PreparedGemms {
  GemmChoices choices;
  int64_t measured = 0;  // pairs of a product and a number of rows, at this start
  int64_t loaded = 0;    // from the file
  // Pairs that were not measured: the time was up, or there was too little memory. Products between
  // measured ones are served by the next, others by the library's first choice.
  int64_t left_out = 0;
};

// Reads the file of these products in `folder`; otherwise measures each product at all of
// GemmRowsToMeasure, powers of two first, until `most_time` is up, and writes the file. Other
// products and other cards have files of their own; a new driver or library takes an old one's
// place. A file is taken as it is, complete or not: so two starts with it are equal. Nothing fails:
// a file that does not fit or cannot be written is a line in the log. folder: made if it is not
// there; empty: nothing is kept. measure: gives no candidates when it could not measure; then no
// file is written, since the next start may.
PreparedGemms PrepareGemms(
    const GemmPlatform& platform, absl::Span<const GemmNeed> needs, const std::string& folder,
    absl::FunctionRef<GemmChoice(const GemmProduct& product, int64_t rows)> measure,
    absl::Duration most_time = absl::Seconds(20));

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_PREPARE_H_
