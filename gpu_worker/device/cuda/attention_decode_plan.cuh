// How a batch of decode rows is cut into runs of keys, and found again by the warps.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_PLAN_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_PLAN_CUH_

#include <algorithm>
#include <cstdint>

#include "gpu_worker/device/cuda/attention_decode.cuh"
#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda::decode {

using warp::kAll;

constexpr int kBlock = KvView::kBlockSlots;
// Keys that a warp takes at a time; never of two blocks.
constexpr int kTile = 16;
// Rows of few keys are cut into short runs, which take less time, others into long runs, of which
// less is written and read again; of more than kMostRuns the runs grow.
constexpr int kShortRun = 256;
constexpr int kLongRun = 512;
constexpr int kShortKeys = 2048;
constexpr int kMostRuns = 64;
// Heads of one tensor core product.
constexpr int kHeads = 8;

// How a row of `keys` keys is cut: of nothing but its own length.
__host__ __device__ inline int RunKeys(int keys) {
  if (keys <= kShortKeys) return kShortRun;
  return kLongRun * ((keys + kLongRun * kMostRuns - 1) / (kLongRun * kMostRuns));
}
__host__ __device__ inline int Runs(int keys) {
  return keys <= 0 ? 0 : (keys + RunKeys(keys) - 1) / RunKeys(keys);
}

// Of any row: a longer one can have fewer runs.
inline int MostRuns(int table_width) {
  const int64_t keys = int64_t{table_width} * kBlock;
  const int64_t few = (std::min<int64_t>(keys, kShortKeys) + kShortRun - 1) / kShortRun;
  const int64_t many = std::min<int64_t>(kMostRuns, (keys + kLongRun - 1) / kLongRun);
  return static_cast<int>(std::max(few, many));
}

struct DecodeTask {
  const __nv_bfloat16* q;
  int64_t q_stride;
  const int32_t* positions;
  const int32_t* tables;
  int table_width;
  const __nv_bfloat16* k;
  const __nv_bfloat16* v;
  int64_t head_slots;
  int rows, kv_heads, group;
  __nv_bfloat16* out;
  int64_t out_stride;
  // Of runs, where a row has several: unnormalised results [row][head][most_runs][head_dim], and
  // their maxima (in powers of two) and sums [row][head][most_runs].
  float* partial;
  float2* weight;
  int most_runs;
};

// One run of one KV head of one row.
struct Run {
  int row, head, index;
  int first;  // key
  int keys;
  bool only;  // the row has no other
};

// All runs of the batch in a fixed order, found from the positions by a warp: items of row 0 come
// first, those of one run index together.
class RunList {
 public:
  __device__ explicit RunList(const DecodeTask& task) : task_(task) { Load(); }

  // The i-th run; i never falls from call to call. False: there is none.
  __device__ bool Find(int64_t i, Run* run) {
    while (i >= before_ + total_) {
      before_ += total_;
      base_ += 32;
      if (base_ >= task_.rows) return false;
      Load();
    }
    const int at = static_cast<int>(i - before_);
    const int lane = __ffs(__ballot_sync(kAll, upto_ > at)) - 1;
    const int keys = __shfl_sync(kAll, keys_, lane);
    const int runs = Runs(keys);
    const int item = at - (__shfl_sync(kAll, upto_, lane) - runs * task_.kv_heads);
    const int length = RunKeys(keys);
    run->row = base_ + lane;
    run->index = item / task_.kv_heads;
    run->head = item % task_.kv_heads;
    run->first = run->index * length;
    run->keys = min(length, keys - run->first);
    run->only = runs == 1;
    return true;
  }

 private:
  __device__ void Load() {
    const int lane = threadIdx.x % 32;
    const int row = base_ + lane;
    keys_ = row < task_.rows ? task_.positions[row] + 1 : 0;
    upto_ = Runs(keys_) * task_.kv_heads;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(kAll, upto_, step);
      if (lane >= step) upto_ += other;
    }
    total_ = __shfl_sync(kAll, upto_, 31);
  }

  const DecodeTask& task_;
  int base_ = 0;        // the row of lane 0
  int64_t before_ = 0;  // runs of the rows before
  int keys_ = 0;        // of this lane's row
  int upto_ = 0;        // runs of the rows up to this lane's
  int total_ = 0;
};

// kWarps share a run; each has a ring of kStages tiles of its own. kSets: of kHeads heads.
template <int kDim_, int kSets_, int kWarps_, int kStages_>
struct Shape {
  static constexpr int kDim = kDim_, kSets = kSets_, kWarps = kWarps_, kStages = kStages_;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kChunks = kDim / 8;  // of 16 bytes, of a row
  // An odd number of chunks from row to row: eight rows' same chunk lie in different banks.
  static constexpr int kPitch = 16 * (kChunks + (kChunks % 2 == 0 ? 1 : 0));
  static constexpr int kTileBytes = kTile * kPitch;
  static constexpr int kStageBytes = 2 * kTileBytes;  // of a warp: K and V
  static constexpr int kSteps = kDim / 16;
  static constexpr int kMergePitch = kDim + 4;  // floats; no two lanes' writes share a bank
  static constexpr int kMergeBytes = kWarps * kHeads * kMergePitch * 4;
  static constexpr int kShared = kWarps * kStages * kStageBytes + kMergeBytes;
  // That fit the shared memory of a Hopper multiprocessor.
  static constexpr int kResident = std::clamp(228 * 1024 / (kShared + 2048), 1, kSets == 1 ? 4 : 3);
};

}  // namespace tessera::cuda::decode

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_PLAN_CUH_
