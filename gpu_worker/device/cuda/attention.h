// Attention of many query rows over one layer of KV memory, exact, without the matrix of scores in
// memory: FlashAttention (Dao et al., 2022), its split of the keys for few rows (Flash-Decoding),
// and on Hopper the pipeline of FlashAttention-3 (Shah et al., 2024).
//
// The query heads that share a KV head are packed as rows of one tile, so that their K and V are
// read once and a tile spans few positions. Every row has a position of its own: a blend computes a
// sparse subset of a prompt's rows, and tiles of keys that no row of a tile sees are not read.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// Bytes of workspace, aligned to 16, that any Attend with heads of head_dim numbers may use on the
// current device.
size_t AttendWorkspace(int head_dim);

// out = softmax(q k^T / sqrt(head_dim)) v. Row i of q (rotated) and of out is [heads * head_dim];
// heads is a multiple of kv.kv_heads. It sees exactly the slots 0..positions[i]; positions ascend,
// strictly or not, and last_position is the last of them. head_dim: 64, 80, 96, 128 or 256. Both
// may be columns of wider rows; rows and kv.k, kv.v begin at multiples of 16 bytes, and with block
// tables head_slots is a multiple of 64. out must not overlap q. Slots after last_position may hold
// anything, NaN too; they are not read. Scores, softmax and sums are in fp32, probabilities are
// rounded to bf16 for the product with V. The same call gives the same bits.
void Attend(Bf16Rows q, const int32_t* positions, int32_t last_position, const KvView& kv,
            Bf16Rows out, void* workspace, cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_H_
