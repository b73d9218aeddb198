// The blend's correction (Ops::Correct in gpu_worker/device/ops.h): kernel ridge regression that
// carries the deviation of a chunk's recomputed ("picked") rows to all its rows in the KV memory.
//
// For a chunk of n rows of which p are picked, and one layer,
//   change[n] = W deviation[p],   W = kernel(rows, picked) (kernel(picked, picked) + noise I)^-1.
// W depends on the cached values alone, so it is made ahead of the layers for many (layer, chunk)
// at once (Prepare) and kept as bf16 [n][p]; a layer then costs one product, whose result is
// rotated and added to the KV memory by the same kernel (Apply). Keeping W rather than the kernel
// and a factor is also the more exact: the kernel's entries share a large constant part that the
// inverse takes away again, and bf16 would have to hold both.
//
// Sums over features, the kernel, the inverse and W before its last rounding are f32 (the products
// with tensor cores: exact bf16 inputs, or each f32 as two bf16). W and the bounded deviations are
// rounded to bf16. The change's relative Frobenius error against double is below 1e-2 (measured:
// 2e-3, of which most is the rounding of the KV memory itself). On Hopper, with heads of 64 or 128,
// angles of rotation are read for some rows and turned by a constant step for others: they must
// grow linearly with the position, as those of all rotary embeddings do.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

struct CorrectionDevice;

// The constants of Ops::Correct, with the same meaning.
struct CorrectionRule {
  float length = 64;
  float nearness = 2;
  float noise = 3;
  float bound = 2;
  int fewest = 4;
  int most = 2048;
};

// What all chunks and layers share.
struct CorrectionShape {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;  // a multiple of 16
  CorrectionRule rule;
};

// One chunk of the prompt; it is the same for all layers.
struct CorrectionChunk {
  int64_t first_position = 0;           // of its first row in the prompt
  std::vector<int32_t> piece_tokens;    // rows of its pieces, in order; their sum is n
  int32_t picked_count = 0;             // p
  const int32_t* picked = nullptr;      // device [p]: rows within the chunk, ascending
  const int32_t* fresh_rows = nullptr;  // device [p]: their rows in the fresh K and V
};

// Memory of the caller. All of it begins at multiples of 256 bytes.
struct CorrectionMemory {
  void* results = nullptr;    // device, result_bytes(): from Stage to the last Apply
  void* workspace = nullptr;  // device, workspace_bytes(layers_at_once): while a Prepare runs
  void* staging = nullptr;    // pinned host, staging_bytes(): until the last Prepare has run
  int layers_at_once = 0;
};

// The correction of one request's chunks. Not thread-safe. Calls put work on a stream and wait for
// nothing; the caller orders Stage before Prepare before Apply of a layer when streams differ. Two
// Prepares that share a workspace, and two Applies, must not run at the same time.
class Correction {
 public:
  // Chunks with fewer than `fewest` or more than `most` picked rows stay as they are.
  Correction(const CorrectionShape& shape, std::vector<CorrectionChunk> chunks);

  size_t result_bytes() const;
  size_t workspace_bytes(int layers_at_once) const;
  size_t staging_bytes() const;
  // Slices of a layer: the pieces of all chunks given, in order.
  int64_t pieces() const { return given_pieces_; }
  bool empty() const { return chunks_.empty(); }

  // Before all else: says where the memory is and copies what layers share to the device.
  void Stage(const CorrectionMemory& memory, cudaStream_t stream);

  // Makes W of the layers first_layer ... first_layer + count - 1. slices: host [count][pieces()];
  // `first` is not read, `tokens` must be the chunk's piece_tokens, k and v begin at multiples of
  // 16 bytes. More layers than layers_at_once are done one group after the other.
  void Prepare(int first_layer, int count, const Slice* slices, cudaStream_t stream);

  // Adds the layer's change to the KV memory. fresh_k (before RoPE) and fresh_v
  // [rows][kv_heads * head_dim]. A chunk whose matrix was not positive definite (NaN in the cache)
  // stays as it is. The KV memory's blocks are read and written in whole rows of the chunk alone.
  void Apply(int layer, const Bf16Rows& fresh_k, const Bf16Rows& fresh_v, const Rope& rope,
             const KvView& kv, cudaStream_t stream) const;

 private:
  void Measure();
  void DescribeChunks(unsigned char* to) const;
  CorrectionDevice OnDevice(int first_layer) const;
  void StageSlices(int first_layer, int count, const Slice* slices, cudaStream_t stream) const;

  CorrectionShape shape_;
  std::vector<CorrectionChunk> chunks_;     // the corrected ones
  std::vector<int64_t> first_given_piece_;  // of each of chunks_, in a layer's slices
  int64_t given_pieces_ = 0;
  CorrectionMemory memory_;

  // Sizes over the corrected chunks.
  int64_t pieces_ = 0;
  int64_t picked_ = 0;
  int64_t product_tiles_ = 0;
  int64_t weights_tiles_ = 0;
  int64_t spans_ = 0;
  int64_t weights_ = 0;   // numbers of W in a layer
  int64_t products_ = 0;  // of products of rows and picked rows in a layer
  int64_t inverse_ = 0;   // numbers of all inverses of a layer
  int64_t matrix_ = 0;    // numbers of a layer's matrices
  int32_t most_cols_ = 0;
  int32_t most_side_ = 0;
  bool any_blocked_ = false;
  int32_t tiles_per_span_ = 0;
  int tile_rows_ = 0;
  int weights_tile_rows_ = 0;
  bool hopper_ = false;
  int shared_bytes_ = 0;  // that a block of threads may have
};

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_H_
