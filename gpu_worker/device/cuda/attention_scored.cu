#include <algorithm>

#include "gpu_worker/device/cuda/attention_scored.h"
#include "gpu_worker/device/cuda/attention_scored_runs.cuh"
#include "gpu_worker/device/cuda/attention_scored_sums.cuh"
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/launch.cuh"

namespace tessera::cuda {
namespace {

constexpr const char* kOp = "attend_scored";

// Queries of a block of the first pass.
int Queries(int head_dim) { return head_dim == 256 ? 64 : 128; }

int Attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  CUDA_OR_DIE(kOp, cudaGetDevice(&device));
  CUDA_OR_DIE(kOp, cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Into how many runs to cut the keys of `units` tiles of queries: of those that need the least
// time, the fewest. Never more than twice as many units as there are multiprocessors result.
int RunsFor(int64_t units, int blocks, int processors) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (int runs = 1; runs <= blocks && (runs == 1 || units * runs <= 2 * processors); ++runs) {
    const int64_t waves = (units * runs + processors - 1) / processors;
    const int64_t time = waves * ((blocks + runs - 1) / runs + 1);  // 1: what a block starts with
    if (time < least) {
      least = time;
      best = runs;
    }
  }
  return best;
}

template <typename Kernel>
void LaunchScored(Kernel kernel, dim3 grid, int threads, int shared, const ScoredTask& task,
                  cudaStream_t stream) {
  CUDA_OR_DIE(kOp,
              cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  LaunchOverlapped(kOp, kernel, grid, dim3(threads), shared, stream, task);
}

template <typename R, typename S>
void LaunchShapes(const ScoredTask& task, cudaStream_t stream) {
  const int heads = task.kv.kv_heads, keys = task.last + 1;
  LaunchScored(ScoredRuns<R>, dim3(heads * task.tiles * task.runs), R::kThreads, R::kShared, task,
               stream);
  LaunchScored(ScoredSums<S, R::kQueries>, dim3((keys + S::kKeys - 1) / S::kKeys, heads),
               S::kThreads, S::kShared, task, stream);
  LaunchScored(AddPaid, dim3((keys + 127) / 128), 128, 0, task, stream);
}

template <int kDim>
void Launch(const ScoredTask& task, cudaStream_t stream) {
  if constexpr (kDim == 256) {
    LaunchShapes<RunShape<256, 4, 32, 2>, SumShape<256, 1, 32, 1>>(task, stream);
  } else {
    using Runs = RunShape<kDim, 8, 64, 4>;
    using Sums = SumShape<kDim, 2, 64, 2>;
    if (std::max(Runs::kShared, Sums::kShared) <=
        Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) {
      LaunchShapes<Runs, Sums>(task, stream);
    } else {
      LaunchShapes<RunShape<kDim, 8, 64, 2>, SumShape<kDim, 2, 64, 1>>(task, stream);
    }
  }
}

// Units of the first pass, at most, when there are `heads` query heads in groups of any size.
int64_t MostUnits(int64_t n, int heads, int head_dim) {
  int64_t most = 2 * Attribute(cudaDevAttrMultiProcessorCount);
  for (int group = 1; group <= std::min(heads, Queries(head_dim)); ++group) {
    if (heads % group != 0) continue;
    const int64_t tile_rows = Queries(head_dim) / group;
    most = std::max(most, heads / group * ((n + tile_rows - 1) / tile_rows));
  }
  return most;
}

size_t RoundedUp(size_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

size_t AttendScoredWorkspace(int64_t n, int heads, int head_dim, int64_t slots) {
  const size_t queries = MostUnits(n, heads, head_dim) * Queries(head_dim);
  return queries * (head_dim * sizeof(float) + sizeof(float2)) +
         2 * RoundedUp(heads * slots * sizeof(float));
}

void AttendScored(Bf16Rows q, const int32_t* positions, int32_t last_position, const KvView& kv,
                  bool by_value_norm, Bf16Rows out, float* scores, int64_t slots, void* workspace,
                  cudaStream_t stream) {
  if (q.rows == 0) return;
  const int heads = static_cast<int>(q.cols / kv.head_dim), queries = Queries(kv.head_dim);
  const bool fits = heads % kv.kv_heads == 0 && heads / kv.kv_heads <= 64 && last_position >= 0 &&
                    last_position < slots;
  if (!fits) DieOfCuda(kOp, cudaErrorInvalidValue);
  ScoredTask task = {};
  task.q = q.data;
  task.q_stride = q.stride;
  task.positions = positions;
  task.rows = static_cast<int>(q.rows);
  task.group = heads / kv.kv_heads;
  task.last = last_position;
  task.kv = kv;
  task.by_value_norm = by_value_norm;
  task.out = out.data;
  task.out_stride = out.stride;
  task.scores = scores;

  constexpr int kBlock = KvView::kBlockSlots;
  const int blocks = last_position / kBlock + 1;
  task.tile_rows = queries / task.group;
  task.tiles = (task.rows + task.tile_rows - 1) / task.tile_rows;
  const int64_t units = static_cast<int64_t>(kv.kv_heads) * task.tiles;
  const int runs = RunsFor(units, blocks, Attribute(cudaDevAttrMultiProcessorCount));
  const int run_blocks = (blocks + runs - 1) / runs;
  task.run_keys = run_blocks * kBlock;
  task.runs = (blocks + run_blocks - 1) / run_blocks;

  char* at = static_cast<char*>(workspace);
  const size_t rows = units * task.runs * queries;
  task.partial = reinterpret_cast<float*>(at);
  at += rows * kv.head_dim * sizeof(float);
  task.weight = reinterpret_cast<float2*>(at);
  at += rows * sizeof(float2);
  task.norm = reinterpret_cast<float*>(at);
  at += RoundedUp(static_cast<size_t>(kv.kv_heads) * (last_position + 1) * sizeof(float));
  task.paid = reinterpret_cast<float*>(at);
  switch (kv.head_dim) {
    case 64:
      return Launch<64>(task, stream);
    case 80:
      return Launch<80>(task, stream);
    case 96:
      return Launch<96>(task, stream);
    case 128:
      return Launch<128>(task, stream);
    case 256:
      return Launch<256>(task, stream);
    default:
      DieOfCuda(kOp, cudaErrorInvalidValue);
  }
}

}  // namespace tessera::cuda
