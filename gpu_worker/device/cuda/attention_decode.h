// Attention of decode steps: one query row per request, many requests in one launch.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// out = softmax(q k^T / sqrt(head_dim)) v; out is [rows][heads * head_dim] as q is (rotated).
// Row r sees slots 0 .. positions[r] of its own request: slot s of head h is at row
//   h * pool.head_slots + tables[r * table_width + s / 64] * 64 + s % 64
// of the pool's K and V; pool.blocks is ignored. positions[r] < table_width * 64; a row of a
// negative position sees nothing and gets zeros. Entries of a table past a row's last slot are not
// read into addresses, and slots past it may hold anything, NaN too.
//
// Keys are cut into runs, the runs' results joined (FlashDecoding, Dao et al. 2023). Where a row's
// keys are cut depends on its position alone: its bits are the same in any batch, with any
// table_width. positions and tables are read on the device, so that a captured graph can be
// replayed with other contents.
//
// head_dim: 64, 80, 96, 128 or 256; at most 16 query heads for each KV head. q, out and the pool
// begin at multiples of 16 bytes, as does the workspace of DecodeAttendWorkspace() bytes, which
// needs no first contents and keeps none.
void DecodeAttend(Bf16Rows q, const int32_t* positions, const int32_t* tables, int table_width,
                  const KvView& pool, Bf16Rows out, void* workspace, cudaStream_t stream);

// Bytes; grows with table_width up to 32768 slots' worth and no further.
size_t DecodeAttendWorkspace(int rows, int heads, int head_dim, int table_width);

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_H_
