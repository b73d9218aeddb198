#include <algorithm>
#include <bit>
#include <cmath>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/top_k.h"

namespace tessera::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;

// A number's rank, smallest for the largest number.
__device__ inline uint32_t Rank(float x) {
  if (isnan(x)) return 0xffffffffu;
  const uint32_t bits = __float_as_uint(x + 0.0f);  // -0 becomes +0
  return (bits & 0x80000000u) != 0 ? bits : 0x7fffffffu - bits;
}

// Rank and row as one: smaller is better, and no two are equal.
__device__ inline uint64_t Key(uint32_t rank, uint32_t row) {
  return static_cast<uint64_t>(rank) << 32 | row;
}

// Which digit the `need`-th smallest of histogram[256] has, what lies below it and in it.
struct Digit {
  int digit, below, in;
};

__device__ inline Digit FindDigit(const int* histogram, int need) {
  const int lane = threadIdx.x % 32;
  int bins[8], sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += bins[i] = histogram[lane * 8 + i];
  int upto = sum;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAll, upto, step);
    if (lane >= step) upto += other;
  }
  const int at = __ffs(__ballot_sync(kAll, upto >= need)) - 1;
  Digit found = {lane * 8, upto - sum, 0};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    found.in = bins[i];
    if (found.below + bins[i] >= need) break;
    found.below += bins[i];
    ++found.digit;
  }
  return {__shfl_sync(kAll, found.digit, at), __shfl_sync(kAll, found.below, at),
          __shfl_sync(kAll, found.in, at)};
}

// Bits that all numbers of a block's threads have, and that some have. A thread without a number
// changes nothing.
struct Range {
  uint32_t every = ~0u;
  uint32_t any = 0;

  __device__ void See(uint32_t number) {
    every &= number;
    any |= number;
  }
  __device__ void Join() {
    __shared__ uint32_t warps[2][kWarps];
    __syncthreads();  // all have read what was there before
    every = __reduce_and_sync(kAll, every);
    any = __reduce_or_sync(kAll, any);
    if (threadIdx.x % 32 == 0) {
      warps[0][threadIdx.x / 32] = every;
      warps[1][threadIdx.x / 32] = any;
    }
    __syncthreads();
    every = __reduce_and_sync(kAll, warps[0][threadIdx.x % 32]);
    any = __reduce_or_sync(kAll, warps[1][threadIdx.x % 32]);
  }
};

// The numbers of which (number >> shift) < prefix, and of those that equal it `need`.
struct Cut {
  uint32_t prefix;
  int shift;
  int need;
  bool ties;  // more equal it, and shift is 0

  __device__ bool Below(uint32_t number) const { return number >> shift < prefix; }
  __device__ bool At(uint32_t number) const { return number >> shift == prefix; }
};

// Radix selection: where to cut to have the `need` smallest of more numbers than these. Begins with
// the first bit in which numbers differ; stops at the first digit after which all that is left is
// taken. By all threads of a block: for_each(f) calls f with each number of a thread; `range` of
// all of them, joined.
template <typename ForEach>
__device__ Cut Select(int need, Range range, const ForEach& for_each) {
  // Lanes count in several histograms, so that equal digits of a warp wait less for one another.
  constexpr int kCopies = 8, kPitch = 257;
  __shared__ int copies[kCopies * kPitch];
  __shared__ int histogram[256];
  int* mine = copies + threadIdx.x % kCopies * kPitch;
  int end = 32 - __clz(static_cast<int>(range.every ^ range.any));  // bits not yet known
  uint32_t prefix = end == 32 ? 0 : range.every >> end;
  while (end > 0) {
    const int shift = max(0, end - 8);
    const uint32_t mask = (1u << (end - shift)) - 1;
    for (int i = threadIdx.x; i < kCopies * kPitch; i += kThreads) copies[i] = 0;
    __syncthreads();
    for_each([&](uint32_t number) {
      if (end == 32 || number >> end == prefix) atomicAdd(mine + (number >> shift & mask), 1);
    });
    __syncthreads();
    if (threadIdx.x < 256) {
      int sum = 0;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) sum += copies[i * kPitch + threadIdx.x];
      histogram[threadIdx.x] = sum;
    }
    __syncthreads();
    const Digit found = FindDigit(histogram, need);
    need -= found.below;
    prefix = prefix << (end - shift) | static_cast<uint32_t>(found.digit);
    if (found.in == need) return {prefix, shift, need, false};
    end = shift;
  }
  return {prefix, 0, need, true};
}

// Sorts n numbers, n a power of two (Batcher's bitonic sort). By all threads of a block.
template <typename T>
__device__ void Sort(T* at, int n) {
  for (int size = 2; size <= n; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < n / 2; i += kThreads) {
        const int low = i / step * step * 2 + i % step, high = low + step;
        const T a = at[low], b = at[high];
        if ((a > b) == ((low & size) == 0)) {
          at[low] = b;
          at[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

struct TopKTask {
  const float* scores;
  const int32_t* candidates;
  int count, k;
  int32_t* picked;
  uint32_t* ranks;  // [count]
  int32_t* sorted;  // [sorted_size], for candidates that do not ascend
  int sorted_size;  // a power of two, at least k
};

// Which candidates are taken.
struct TopKCut {
  Cut rank;
  Cut row;  // of ties in rank

  __device__ bool Takes(const TopKTask& task, int i) const {
    const uint32_t at = task.ranks[i];
    if (rank.Below(at)) return true;
    if (!rank.At(at)) return false;
    if (!rank.ties) return true;
    const uint32_t candidate = task.candidates[i];
    return row.Below(candidate) || row.At(candidate);
  }
};

// Writes the candidates that the cut takes, in their order; each warp has a segment of the list.
__device__ void Collect(const TopKTask& task, const TopKCut& cut, int32_t* to) {
  __shared__ int counts[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int segment = (task.count + kThreads - 1) / kThreads * 32;
  const int first = min(task.count, warp * segment), last = min(task.count, first + segment);
  int count = 0;
#pragma unroll 8
  for (int i = first + lane; i < last; i += 32) count += cut.Takes(task, i) ? 1 : 0;
  count = __reduce_add_sync(kAll, count);
  if (lane == 0) counts[warp] = count;
  __syncthreads();
  int at = 0;
  for (int w = 0; w < warp; ++w) at += counts[w];
#pragma unroll 4
  for (int i = first; i < last; i += 32) {
    const bool mine = i + lane < last && cut.Takes(task, i + lane);
    const unsigned all = __ballot_sync(kAll, mine);
    if (mine) to[at + __popc(all & ((1u << lane) - 1))] = task.candidates[i + lane];
    at += __popc(all);
  }
}

__global__ void __launch_bounds__(kThreads, 1) TopKBlock(const __grid_constant__ TopKTask task) {
  bool falls = false;
  Range ranks, rows;
#pragma unroll 8
  for (int i = threadIdx.x; i < task.count; i += kThreads) {
    const int row = task.candidates[i];
    const uint32_t rank = Rank(task.scores[row]);
    task.ranks[i] = rank;
    ranks.See(rank);
    rows.See(row);
    falls |= i > 0 && task.candidates[i - 1] > row;
  }
  const bool ascend = __syncthreads_or(falls) == 0;
  ranks.Join();
  rows.Join();
  TopKCut cut = {{~0u, 0, 0, false}, {0, 0, 0, false}};  // all of them
  if (task.k < task.count) {
    cut.rank = Select(task.k, ranks, [&](const auto& see) {
#pragma unroll 8
      for (int i = threadIdx.x; i < task.count; i += kThreads) see(task.ranks[i]);
    });
    if (cut.rank.ties) {
      cut.row = Select(cut.rank.need, rows, [&](const auto& see) {
#pragma unroll 4
        for (int i = threadIdx.x; i < task.count; i += kThreads) {
          if (task.ranks[i] == cut.rank.prefix) see(task.candidates[i]);
        }
      });
    }
  }
  if (ascend) return Collect(task, cut, task.picked);
  Collect(task, cut, task.sorted);
  for (int i = task.k + threadIdx.x; i < task.sorted_size; i += kThreads) {
    task.sorted[i] = INT32_MAX;
  }
  Sort(task.sorted, task.sorted_size);
  for (int i = threadIdx.x; i < task.k; i += kThreads) task.picked[i] = task.sorted[i];
}

int SortedSize(int64_t k) {
  return static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(k, 2))));
}

// Calls see(i, x) for each number of a row, 16 bytes at a time where they can be.
template <typename See>
__device__ void ForRow(const float* row, int n, const See& see) {
  const int head = min(n, static_cast<int>((16 - reinterpret_cast<uintptr_t>(row) % 16) / 4 % 4));
  const int vectors = (n - head) / 4;
  if (threadIdx.x < head) see(threadIdx.x, row[threadIdx.x]);
#pragma unroll 4
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    const float4 x = *reinterpret_cast<const float4*>(row + head + i * 4);
    const int at = head + i * 4;
    see(at, x.x);
    see(at + 1, x.y);
    see(at + 2, x.z);
    see(at + 3, x.w);
  }
  const int tail = head + vectors * 4 + threadIdx.x;
  if (tail < n) see(tail, row[tail]);
}

// The least of all threads' keys, for thread 0.
__device__ uint64_t LeastOfBlock(uint64_t key) {
  __shared__ uint64_t least[kWarps];
  for (int step = 16; step > 0; step /= 2) key = min(key, __shfl_xor_sync(kAll, key, step));
  if (threadIdx.x % 32 == 0) least[threadIdx.x / 32] = key;
  __syncthreads();
  key = least[threadIdx.x % 32];
  for (int step = 16; step > 0; step /= 2) key = min(key, __shfl_xor_sync(kAll, key, step));
  return key;
}

// A block for each row.
__global__ void __launch_bounds__(kThreads) ArgMax(F32Rows logits, int32_t* ids, float* values) {
  const float* row = logits.data + blockIdx.x * logits.stride;
  float most = -INFINITY;
  int id = 0;
  // A thread's numbers come in ascending order: the first of equals stays.
  ForRow(row, static_cast<int>(logits.cols), [&](int i, float x) {
    if (x > most) {
      most = x;
      id = i;
    }
  });
  const uint64_t least = LeastOfBlock(Key(Rank(most), id));
  if (threadIdx.x != 0) return;
  id = static_cast<int>(static_cast<uint32_t>(least));
  ids[blockIdx.x] = id;
  if (values != nullptr) values[blockIdx.x] = row[id];
}

// A sum of exp(x - most).
struct SumExp {
  float most = -INFINITY;
  float sum = 0.0f;

  __device__ void Add(SumExp other) {
    const float top = fmaxf(most, other.most);
    if (top == -INFINITY) return;
    sum = sum * __expf(most - top) + other.sum * __expf(other.most - top);
    most = top;
  }
  // Of all threads, in a fixed order.
  __device__ float Log() {
    __shared__ SumExp all[kWarps];
    AddLanes();
    if (threadIdx.x % 32 == 0) all[threadIdx.x / 32] = *this;
    __syncthreads();
    *this = all[threadIdx.x % 32];
    AddLanes();
    return most + logf(sum);
  }

 private:
  __device__ void AddLanes() {
    for (int step = 16; step > 0; step /= 2) {
      SumExp other;
      other.most = __shfl_xor_sync(kAll, most, step);
      other.sum = __shfl_xor_sync(kAll, sum, step);
      Add(other);
    }
  }
};

// A rank that at least k of the row's numbers reach: the k-th best of the threads' own best, which
// come from different places of the row.
__device__ uint32_t RankToReach(float most, int k) {
  const uint32_t rank = Rank(most);
  Range range;
  range.See(rank);
  range.Join();
  const Cut cut = Select(k, range, [&](const auto& see) { see(rank); });
  return cut.shift == 0 ? cut.prefix : ((cut.prefix + 1) << cut.shift) - 1;
}

constexpr int kListed = 2048;

// The k best of a row of more, by radix selection, unsorted: for rows with many equals.
__device__ void SelectRow(const float* row, int n, int k, uint64_t* best, int* found) {
  Range ranks, ids;
  ForRow(row, n, [&](int i, float x) {
    ranks.See(Rank(x));
    ids.See(i);
  });
  ranks.Join();
  ids.Join();
  const Cut cut = Select(
      k, ranks, [&](const auto& see) { ForRow(row, n, [&](int, float x) { see(Rank(x)); }); });
  Cut id = {~0u, 0, 0, false};
  if (cut.ties) {
    id = Select(cut.need, ids, [&](const auto& see) {
      ForRow(row, n, [&](int i, float x) {
        if (Rank(x) == cut.prefix) see(i);
      });
    });
  }
  ForRow(row, n, [&](int i, float x) {
    const uint32_t rank = Rank(x);
    if (cut.Below(rank) || (cut.At(rank) && (id.Below(i) || id.At(i)))) {
      best[atomicAdd(found, 1)] = Key(rank, i);
    }
  });
}

// A block for each row: lists the few numbers that may be among the best, and sorts these.
__global__ void __launch_bounds__(kThreads)
    TopOfRow(F32Rows logits, int k, float* values, int32_t* ids, float* log_sum_exp) {
  __shared__ uint64_t list[kListed];
  __shared__ int listed;
  const float* row = logits.data + blockIdx.x * logits.stride;
  const int n = static_cast<int>(logits.cols);
  SumExp mine;
  ForRow(row, n, [&](int, float x) { mine.most = fmaxf(mine.most, x); });
  const uint32_t reach = n <= kListed ? 0xffffffffu : RankToReach(mine.most, k);
  if (threadIdx.x == 0) listed = 0;
  __syncthreads();
  // The order in the list does not matter: it is sorted, and no two keys are equal.
  const float most = mine.most;
  ForRow(row, n, [&](int i, float x) {
    mine.sum += most == -INFINITY ? 0.0f : __expf(x - most);
    const uint32_t rank = Rank(x);
    if (rank > reach) return;
    const int at = atomicAdd(&listed, 1);
    if (at < kListed) list[at] = Key(rank, i);
  });
  const float log = mine.Log();
  __syncthreads();
  int count = listed;
  if (count > kListed) {
    __syncthreads();
    if (threadIdx.x == 0) listed = 0;
    __syncthreads();
    SelectRow(row, n, k, list, &listed);
    count = k;
  }
  int size = 2;
  while (size < count) size *= 2;
  __syncthreads();
  for (int i = count + threadIdx.x; i < size; i += kThreads) list[i] = ~uint64_t{0};
  Sort(list, size);
  if (threadIdx.x < k) {
    const auto id = static_cast<uint32_t>(list[threadIdx.x]);
    ids[static_cast<int64_t>(blockIdx.x) * k + threadIdx.x] = static_cast<int32_t>(id);
    values[static_cast<int64_t>(blockIdx.x) * k + threadIdx.x] = row[id];
  }
  if (threadIdx.x == 0) log_sum_exp[blockIdx.x] = log;
}

}  // namespace

size_t TopKWorkspace(int64_t count, int64_t k) {
  return static_cast<size_t>(count) * sizeof(uint32_t) + SortedSize(k) * sizeof(int32_t);
}

void TopK(const float* scores, const int32_t* candidates, int64_t count, int64_t k, int32_t* picked,
          void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (k == 0) return;
  if (k > count || count > INT32_MAX / 2 || workspace_bytes < TopKWorkspace(count, k)) {
    DieOfCuda("top_k", cudaErrorInvalidValue);
  }
  TopKTask task = {};
  task.scores = scores;
  task.candidates = candidates;
  task.count = static_cast<int>(count);
  task.k = static_cast<int>(k);
  task.picked = picked;
  task.ranks = static_cast<uint32_t*>(workspace);
  task.sorted = static_cast<int32_t*>(workspace) + count;
  task.sorted_size = SortedSize(k);
  TopKBlock<<<1, kThreads, 0, stream>>>(task);
  CUDA_OR_DIE("top_k", cudaGetLastError());
}

void ArgMaxRows(F32Rows logits, int32_t* ids, float* values, cudaStream_t stream) {
  if (logits.rows == 0) return;
  ArgMax<<<static_cast<unsigned>(logits.rows), kThreads, 0, stream>>>(logits, ids, values);
  CUDA_OR_DIE("arg_max_rows", cudaGetLastError());
}

void TopLogits(F32Rows logits, int k, float* values, int32_t* ids, float* log_sum_exp,
               cudaStream_t stream) {
  if (logits.rows == 0) return;
  if (k < 1 || k > logits.cols || k > kMostTopLogits) {
    DieOfCuda("top_logits", cudaErrorInvalidValue);
  }
  TopOfRow<<<static_cast<unsigned>(logits.rows), kThreads, 0, stream>>>(logits, k, values, ids,
                                                                        log_sum_exp);
  CUDA_OR_DIE("top_logits", cudaGetLastError());
}

}  // namespace tessera::cuda
