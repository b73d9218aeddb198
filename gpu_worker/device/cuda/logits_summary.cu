#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/logits_summary.h"

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
    TopOfRow(F32Rows logits, int k, float* values, int32_t* ids) {
  __shared__ uint64_t list[kListed];
  __shared__ int listed;
  const float* row = logits.data + blockIdx.x * logits.stride;
  const int n = static_cast<int>(logits.cols);
  float most = -INFINITY;
  ForRow(row, n, [&](int, float x) { most = fmaxf(most, x); });
  const uint32_t reach = n <= kListed ? 0xffffffffu : RankToReach(most, k);
  if (threadIdx.x == 0) listed = 0;
  __syncthreads();
  // The order in the list does not matter: it is sorted, and no two keys are equal.
  ForRow(row, n, [&](int i, float x) {
    const uint32_t rank = Rank(x);
    if (rank > reach) return;
    const int at = atomicAdd(&listed, 1);
    if (at < kListed) list[at] = Key(rank, i);
  });
  __syncthreads();
  int count = listed;
  if (count > kListed || count < k) {  // many equals, or NaNs, which reach no rank
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
}

constexpr int kMassThreads = 256;
constexpr int kMassWarps = kMassThreads / 32;

// `join` of what all threads of a block have, in a fixed order.
template <typename T, typename Join>
__device__ T OfBlock(T mine, const Join& join) {
  __shared__ T warps[kMassWarps];
  for (int step = 16; step > 0; step /= 2) mine = join(mine, __shfl_xor_sync(kAll, mine, step));
  __syncthreads();  // all have read what was there before
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  T all = warps[0];
#pragma unroll
  for (int i = 1; i < kMassWarps; ++i) all = join(all, warps[i]);
  return all;
}

// A block for each segment of a row.
__global__ void __launch_bounds__(kMassThreads)
    MassOfSegment(F32Rows logits, const float* temperatures, float* tops, double* masses,
                  double* masses_at_temperature) {
  constexpr int kEach = kSegment / kMassThreads;
  const int64_t first = int64_t{blockIdx.x} * kSegment;
  const float* segment = logits.data + blockIdx.y * logits.stride + first;
  const int n = static_cast<int>(min(int64_t{kSegment}, logits.cols - first));
  float x[kEach], top = -INFINITY;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kMassThreads;
    x[j] = i < n ? segment[i] : -INFINITY;
    top = fmaxf(top, x[j]);  // passes over a NaN, which the sums will be
  }
  top = OfBlock(top, [](float a, float b) { return fmaxf(a, b); });
  const double temperature = temperatures[blockIdx.y];
  double mass = 0, at_temperature = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    if (x[j] == -INFINITY) continue;
    const double below = static_cast<double>(x[j]) - top;
    const double weight = exp(below);
    mass += weight;
    at_temperature += temperature == 1 ? weight : exp(below / temperature);
  }
  const auto add = [](double a, double b) { return a + b; };
  mass = OfBlock(mass, add);
  at_temperature = OfBlock(at_temperature, add);
  if (threadIdx.x != 0) return;
  const int64_t at = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  tops[at] = top;
  masses[at] = mass;
  masses_at_temperature[at] = at_temperature;
}

}  // namespace

void TopLogits(F32Rows logits, int k, float* values, int32_t* ids, cudaStream_t stream) {
  if (logits.rows == 0) return;
  if (k < 1 || k > logits.cols || k > kMostTopLogits) {
    DieOfCuda("top_logits", cudaErrorInvalidValue);
  }
  TopOfRow<<<static_cast<unsigned>(logits.rows), kThreads, 0, stream>>>(logits, k, values, ids);
  CUDA_OR_DIE("top_logits", cudaGetLastError());
}

void SegmentMasses(F32Rows logits, const float* temperatures, float* tops, double* masses,
                   double* masses_at_temperature, cudaStream_t stream) {
  if (logits.rows == 0) return;
  const auto segments = static_cast<unsigned>((logits.cols + kSegment - 1) / kSegment);
  MassOfSegment<<<dim3(segments, static_cast<unsigned>(logits.rows)), kMassThreads, 0, stream>>>(
      logits, temperatures, tops, masses, masses_at_temperature);
  CUDA_OR_DIE("segment_masses", cudaGetLastError());
}

}  // namespace tessera::cuda
