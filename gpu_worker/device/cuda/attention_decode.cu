#include <algorithm>
#include <cmath>

#include "gpu_worker/device/cuda/attention_decode.cuh"
#include "gpu_worker/device/cuda/attention_decode.h"
#include "gpu_worker/device/cuda/attention_decode_plan.cuh"
#include "gpu_worker/device/cuda/attention_decode_runs.cuh"
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/launch.cuh"

namespace tessera::cuda {
namespace decode {
namespace {

constexpr const char* kOp = "decode_attend";

// A grid that fills the chip walks over all runs; warps wait for one another only where a run's
// results are joined.
template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kResident)
    DecodeRuns(const __grid_constant__ DecodeTask task) {
  extern __shared__ __align__(16) char shared[];
  AwaitLast();
  LetNextStart();
  const int warp_index = threadIdx.x / 32;
  float* merge = reinterpret_cast<float*>(shared);
  const uint32_t stages =
      warp::SharedAddress(shared) + S::kMergeBytes + warp_index * S::kStages * S::kStageBytes;

  TileStream<S> stream(task, stages);
#pragma unroll
  for (int i = 0; i + 1 < S::kStages; ++i) stream.Copy(i);

  int stage = 0;
  RunList list(task);
  Run run;
  for (int64_t i = blockIdx.x; list.Find(i, &run); i += gridDim.x) {
    Softmax<S> softmax;
    softmax.Begin(task, run);
    for (int key = warp_index * kTile; key < run.keys; key += S::kWarps * kTile) {
      __syncwarp();
      stream.Copy(stage == 0 ? S::kStages - 1 : stage - 1);
      warp::WaitCopies<S::kStages - 1>();
      __syncwarp();
      softmax.Add(stages + stage * S::kStageBytes, run.keys - key);
      stage = stage + 1 == S::kStages ? 0 : stage + 1;
    }
    WriteRun(task, run, softmax, merge);
  }
}

constexpr int kJoinWarps = 4;

// A warp's share of a row's runs in one head.
template <int kDim>
struct Joined {
  static constexpr int kVectors = (kDim / 4 + 31) / 32;  // of each lane
  float4 all[kVectors] = {};
  float top = -INFINITY;
  float sum = 0.0f;

  __device__ void Add(float2 weight, const float4 (&x)[kVectors]) {
    const float most = fmaxf(top, weight.x);
    if (most == -INFINITY) return;
    const float shrink = Exp2(top - most), scale = Exp2(weight.x - most);
    top = most;
    sum = sum * shrink + weight.y * scale;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      all[i] = {all[i].x * shrink + x[i].x * scale, all[i].y * shrink + x[i].y * scale,
                all[i].z * shrink + x[i].z * scale, all[i].w * shrink + x[i].w * scale};
    }
  }
};

// A block joins the runs of one head of one row: its warps some of them each, then the first warp
// what they have.
template <int kDim>
__global__ void __launch_bounds__(32 * kJoinWarps)
    DecodeJoin(const __grid_constant__ DecodeTask task) {
  using Mine = Joined<kDim>;
  __shared__ float4 others[kJoinWarps][kDim / 4];
  __shared__ float2 weights[kJoinWarps];
  const int head = blockIdx.x, row = blockIdx.y, heads = gridDim.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int runs = Runs(task.positions[row] + 1);
  AwaitLast();
  LetNextStart();
  if (runs == 1) return;
  const int64_t first = (static_cast<int64_t>(row) * heads + head) * task.most_runs;
  constexpr int kAtOnce = 4;
  Mine mine;
  for (int run = warp; run < runs; run += kJoinWarps * kAtOnce) {
    float4 x[kAtOnce][Mine::kVectors] = {};
    float2 weight[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int64_t at = first + run + j * kJoinWarps;
      weight[j] = {-INFINITY, 0.0f};
      if (run + j * kJoinWarps >= runs) continue;
      weight[j] = task.weight[at];
#pragma unroll
      for (int i = 0; i < Mine::kVectors; ++i) {
        const int dim = (i * 32 + lane) * 4;
        if (dim < kDim) x[j][i] = *reinterpret_cast<const float4*>(task.partial + at * kDim + dim);
      }
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) mine.Add(weight[j], x[j]);
  }
#pragma unroll
  for (int i = 0; i < Mine::kVectors; ++i) {
    if (i * 32 + lane < kDim / 4) others[warp][i * 32 + lane] = mine.all[i];
  }
  if (lane == 0) weights[warp] = {mine.top, mine.sum};
  __syncthreads();
  if (warp != 0) return;
  for (int w = 1; w < kJoinWarps; ++w) {
    float4 x[Mine::kVectors] = {};
#pragma unroll
    for (int i = 0; i < Mine::kVectors; ++i) {
      if (i * 32 + lane < kDim / 4) x[i] = others[w][i * 32 + lane];
    }
    mine.Add(weights[w], x);
  }
  const float scale = runs == 0 ? 0.0f : 1.0f / mine.sum;
#pragma unroll
  for (int i = 0; i < Mine::kVectors; ++i) {
    const int dim = (i * 32 + lane) * 4;
    if (dim >= kDim) continue;
    *reinterpret_cast<uint2*>(task.out + row * task.out_stride + head * kDim + dim) = {
        Pack(mine.all[i].x * scale, mine.all[i].y * scale),
        Pack(mine.all[i].z * scale, mine.all[i].w * scale)};
  }
}
// What the launches need to know of the current device.
struct Device {
  int processors = 0;
  int shared_bytes = 0;  // of a block, at most

  static Device Current() {
    int device = 0;
    Device is;
    CUDA_OR_DIE(kOp, cudaGetDevice(&device));
    CUDA_OR_DIE(kOp,
                cudaDeviceGetAttribute(&is.processors, cudaDevAttrMultiProcessorCount, device));
    CUDA_OR_DIE(kOp, cudaDeviceGetAttribute(&is.shared_bytes,
                                            cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return is;
  }
};

template <typename S>
void LaunchShape(const DecodeTask& task, const Device& device, cudaStream_t stream) {
  const auto kernel = DecodeRuns<S>;
  CUDA_OR_DIE(
      kOp, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kShared));
  const int64_t most = static_cast<int64_t>(task.rows) * task.kv_heads * task.most_runs;
  const int64_t resident = static_cast<int64_t>(device.processors) *
                           std::max(1, (device.shared_bytes + 1024) / (S::kShared + 2048));
  LaunchOverlapped(kOp, kernel, dim3(static_cast<unsigned>(std::min(most, resident))),
                   dim3(S::kThreads), S::kShared, stream, task);
  LaunchOverlapped(kOp, DecodeJoin<S::kDim>, dim3(task.kv_heads * task.group, task.rows),
                   dim3(32 * kJoinWarps), 0, stream, task);
}

template <int kDim, int kSets>
void LaunchSets(const DecodeTask& task, cudaStream_t stream) {
  const Device device = Device::Current();
  using Two = Shape<kDim, kSets, 4, 2>;
  if constexpr (Two::kShared > 99 * 1024) {
    if (Two::kShared > device.shared_bytes) {
      return LaunchShape<Shape<kDim, kSets, 4, 1>>(task, device, stream);
    }
  }
  LaunchShape<Two>(task, device, stream);
}

template <int kDim>
void Launch(const DecodeTask& task, cudaStream_t stream) {
  task.group <= kHeads ? LaunchSets<kDim, 1>(task, stream) : LaunchSets<kDim, 2>(task, stream);
}

size_t PartialBytes(int rows, int heads, int head_dim, int table_width) {
  return static_cast<size_t>(rows) * heads * MostRuns(table_width) * head_dim * sizeof(float);
}
}  // namespace
}  // namespace decode

size_t DecodeAttendWorkspace(int rows, int heads, int head_dim, int table_width) {
  return decode::PartialBytes(rows, heads, head_dim, table_width) +
         static_cast<size_t>(rows) * heads * decode::MostRuns(table_width) * sizeof(float2);
}

void DecodeAttend(Bf16Rows q, const int32_t* positions, const int32_t* tables, int table_width,
                  const KvView& pool, Bf16Rows out, void* workspace, cudaStream_t stream) {
  if (q.rows == 0) return;
  const int rows = static_cast<int>(q.rows), heads = static_cast<int>(q.cols / pool.head_dim);
  decode::DecodeTask task = {};
  task.q = q.data;
  task.q_stride = q.stride;
  task.positions = positions;
  task.tables = tables;
  task.table_width = table_width;
  task.k = pool.k;
  task.v = pool.v;
  task.head_slots = pool.head_slots;
  task.rows = rows;
  task.kv_heads = pool.kv_heads;
  task.group = heads / pool.kv_heads;
  task.out = out.data;
  task.out_stride = out.stride;
  task.partial = static_cast<float*>(workspace);
  task.weight =
      reinterpret_cast<float2*>(static_cast<char*>(workspace) +
                                decode::PartialBytes(rows, heads, pool.head_dim, table_width));
  task.most_runs = decode::MostRuns(table_width);
  const bool fits = heads % pool.kv_heads == 0 && task.group <= 2 * decode::kHeads;
  switch (fits ? pool.head_dim : 0) {
    case 64:
      return decode::Launch<64>(task, stream);
    case 80:
      return decode::Launch<80>(task, stream);
    case 96:
      return decode::Launch<96>(task, stream);
    case 128:
      return decode::Launch<128>(task, stream);
    case 256:
      return decode::Launch<256>(task, stream);
    default:
      DieOfCuda(decode::kOp, cudaErrorInvalidValue);
  }
}

}  // namespace tessera::cuda
