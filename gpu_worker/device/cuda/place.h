// Rotary positions, and K and V on their way into a layer's KV memory. See ops.h (Rotate, WriteKv,
// PlaceSlice, RoundToSlice) for what each means.
//
// Arithmetic is in floats, rounded once. Heads are of any even size; rows and heads whose halves
// are multiples of 8 numbers move in pieces of 16 bytes, others in smaller ones. Positions are not
// checked: their slots, and their rows of the table of angles, exist. All kernels take part in
// programmatic dependent launch (see rows.h).
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_PLACE_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_PLACE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// Rotates row r, seen as heads of 2 * rope.half_dim, to positions[r], in place; pairs are
// (j, j + half_dim).
void RotateRows(Bf16Rows x, const int32_t* positions, const Rope& rope, cudaStream_t stream);

// Writes row r of k, rotated, and of v [rows][kv_heads * head_dim] to slot positions[r]. k stays as
// it is.
void WriteKv(Bf16Rows k, Bf16Rows v, const int32_t* positions, const Rope& rope, const KvView& kv,
             cudaStream_t stream);

// RotateRows(q), if there is a q, and WriteKv(k, v) in one launch; row r of all three has
// positions[r].
void RotateAndWrite(Bf16Rows q, Bf16Rows k, Bf16Rows v, const int32_t* positions, const Rope& rope,
                    const KvView& kv, cudaStream_t stream);
// Of many requests' rows: row r goes to the KV memory whose blocks are the row
// tables + r * table_width; kv.blocks is not read.
void RotateAndWrite(Bf16Rows q, Bf16Rows k, Bf16Rows v, const int32_t* positions,
                    const int32_t* tables, int table_width, const Rope& rope, const KvView& kv,
                    cudaStream_t stream);

// Writes each slice's tokens to slots slice.first ...: K rotated to its slot's position, V as it
// is. `slices` is host memory, read before this returns.
void PlaceSlices(const Slice* slices, int count, const Rope& rope, const KvView& kv,
                 cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_PLACE_H_
