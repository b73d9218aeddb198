// Memory of a case for the tests of attention, and what is expected of it.
#ifndef TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_ATTENTION_BENCH_CUH_
#define TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_ATTENTION_BENCH_CUH_

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/attention.h"
#include "gpu_worker/device/cuda/attention_task.cuh"
#include "gpu_worker/device/cuda/check.h"

namespace tessera::cuda {

enum class Path { kAny, kMma, kWgmma };

struct Case {
  int heads = 8;
  int kv_heads = 2;
  int head_dim = 128;
  bool blocks = true;
  std::vector<int32_t> positions;
  int spare_slots = 37;  // after the last position
  Path path = Path::kAny;
};

inline std::vector<int32_t> Range(int first, int n) {
  std::vector<int32_t> positions(n);
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

// n of `slots` positions, scattered, ascending, with the last one.
inline std::vector<int32_t> Scattered(int n, int slots) {
  std::vector<int32_t> all = Range(0, slots - 1);
  std::mt19937 random(n);
  std::shuffle(all.begin(), all.end(), random);
  all.resize(n - 1);
  all.push_back(slots - 1);
  std::sort(all.begin(), all.end());
  return all;
}

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    CUDA_OR_DIE("test", cudaMalloc(&data_, std::max<size_t>(1, size) * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& from) : DeviceArray(from.size()) {
    CUDA_OR_DIE("test", cudaMemcpy(data_, from.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* get() const { return data_; }
  size_t size() const { return size_; }
  std::vector<T> Read() const {
    std::vector<T> to(size_);
    CUDA_OR_DIE("test", cudaMemcpy(to.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return to;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

__device__ float Uniform(uint64_t x) {
  x = (x + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 30)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  return static_cast<float>(x >> 40) * 0x1p-24f + 0x1p-25f;
}

// Normal numbers times `scale`.
static __global__ void FillNormal(__nv_bfloat16* to, size_t size, float scale, uint64_t seed) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) {
    const float radius = sqrtf(-2 * logf(Uniform(seed + 2 * i)));
    to[i] = __float2bfloat16(scale * radius * cospif(2 * Uniform(seed + 2 * i + 1)));
  }
}

// NaN in the slots that no row sees.
static __global__ void PoisonUnseen(KvView kv, const uint8_t* seen) {
  const int64_t row = blockIdx.x;
  if (seen[row % kv.head_slots]) return;
  for (int d = threadIdx.x; d < kv.head_dim; d += blockDim.x) {
    kv.k[row * kv.head_dim + d] = __ushort_as_bfloat16(0x7fff);
    kv.v[row * kv.head_dim + d] = __ushort_as_bfloat16(0xffff);
  }
}

// The specification: one block is one row of `rows` and one head; terms of blockDim.x threads.
static __global__ void Reference(Bf16Rows q, const int32_t* positions, KvView kv,
                                 const int32_t* rows, double* out) {
  extern __shared__ double probability[];
  __shared__ double total;
  const int row = rows[blockIdx.x];
  const int heads = gridDim.y;
  const int head = blockIdx.y;
  const int64_t first = head / (heads / kv.kv_heads) * kv.head_slots;
  const auto at = [&](int slot) {
    const int64_t in_head = kv.blocks == nullptr ? slot : kv.blocks[slot / 64] * 64 + slot % 64;
    return (first + in_head) * kv.head_dim;
  };
  const int slots = positions[row] + 1;
  const __nv_bfloat16* mine = q.data + row * q.stride + head * kv.head_dim;
  for (int slot = threadIdx.x; slot < slots; slot += blockDim.x) {
    const __nv_bfloat16* k = kv.k + at(slot);
    double score = 0;
    for (int d = 0; d < kv.head_dim; ++d) {
      score += static_cast<double>(__bfloat162float(mine[d])) * __bfloat162float(k[d]);
    }
    probability[slot] = exp(score / sqrt(static_cast<double>(kv.head_dim)));
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    total = 0;
    for (int slot = 0; slot < slots; ++slot) total += probability[slot];
  }
  __syncthreads();
  for (int d = threadIdx.x; d < kv.head_dim; d += blockDim.x) {
    double sum = 0;
    for (int slot = 0; slot < slots; ++slot) {
      sum += probability[slot] * __bfloat162float(kv.v[at(slot) + d]);
    }
    out[(static_cast<int64_t>(blockIdx.x) * heads + head) * kv.head_dim + d] = sum / total;
  }
}

// A case's memory: q is a view of wider rows, K and V lie in shuffled blocks of a bigger pool or
// without blocks, all that Attend must not read is NaN.
class Bench {
 public:
  static constexpr int kGap = 16;  // numbers between rows of out

  explicit Bench(const Case& c, uint64_t seed = 1)
      : c_(c),
        n_(static_cast<int>(c.positions.size())),
        last_(n_ == 0 ? -1 : c.positions.back()),
        slots_(Slots(c, last_)),
        width_((c.heads + 2 * c.kv_heads) * c.head_dim),
        positions_(c.positions),
        table_(Table()),
        q_(n_ * width_),
        k_(static_cast<size_t>(slots_) * c.kv_heads * c.head_dim),
        v_(k_.size()),
        out_(n_ * OutStride()),
        workspace_(AttendWorkspace(c.head_dim)) {
    FillNormal<<<1024, 256>>>(q_.get(), q_.size(), 1.5f, seed);
    FillNormal<<<1024, 256>>>(k_.get(), k_.size(), 1.5f, seed + (1ull << 40));
    FillNormal<<<1024, 256>>>(v_.get(), v_.size(), 1, seed + (1ull << 41));
    DeviceArray<uint8_t> seen(Seen());
    PoisonUnseen<<<static_cast<int>(slots_ * c.kv_heads), 64>>>(Kv(), seen.get());
    CUDA_OR_DIE("test", cudaDeviceSynchronize());
  }

  KvView Kv() const {
    return {.k = k_.get(),
            .v = v_.get(),
            .blocks = c_.blocks ? table_.get() : nullptr,
            .head_slots = slots_,
            .kv_heads = c_.kv_heads,
            .head_dim = c_.head_dim};
  }
  Bf16Rows Query() const { return {q_.get(), n_, c_.heads * c_.head_dim, width_}; }
  Bf16Rows Out() const { return {out_.get(), n_, c_.heads * c_.head_dim, OutStride()}; }
  int64_t OutStride() const { return c_.heads * c_.head_dim + kGap; }

  // False if the path does not exist for the case.
  bool Run(cudaStream_t stream = nullptr) {
    if (n_ == 0 || c_.path == Path::kAny) {
      Attend(Query(), positions_.get(), last_, Kv(), Out(), workspace_.get(), stream);
      return true;
    }
    const attention::Task task =
        attention::MakeTask(Query(), positions_.get(), last_, Kv(), Out(), workspace_.get());
    if (c_.path == Path::kWgmma) {
      return attention::LaunchWgmma(task, c_.head_dim, stream);
    }
    attention::LaunchMma(task, c_.head_dim, stream);
    return true;
  }

  // Runs over poisoned memory: all rows of out with what lies between them; empty as Run is false.
  std::vector<__nv_bfloat16> Poisoned() {
    CUDA_OR_DIE("test", cudaMemset(out_.get(), 0xff, out_.size() * 2));
    CUDA_OR_DIE("test", cudaMemset(workspace_.get(), 0xff, workspace_.size()));
    if (!Run()) return {};
    CUDA_OR_DIE("test", cudaDeviceSynchronize());
    return out_.Read();
  }

  std::vector<double> Expected(const std::vector<int32_t>& rows) {
    DeviceArray<int32_t> device_rows(rows);
    DeviceArray<double> to(rows.size() * c_.heads * c_.head_dim);
    // The compiler's loads run ahead of the loops by a few numbers.
    const int bytes = (last_ + 33) * static_cast<int>(sizeof(double));
    CUDA_OR_DIE("test", cudaFuncSetAttribute(Reference, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             bytes));
    const dim3 grid(static_cast<int>(rows.size()), c_.heads);
    Reference<<<grid, 128, bytes>>>(Query(), positions_.get(), Kv(), device_rows.get(), to.get());
    CUDA_OR_DIE("test", cudaDeviceSynchronize());
    return to.Read();
  }

 private:
  static int64_t Slots(const Case& c, int last) {
    const int slots = last + 1 + c.spare_slots;
    return c.blocks ? (slots + 63) / 64 * 64 + 5 * 64 : slots;
  }

  std::vector<int32_t> Table() const {
    std::vector<int32_t> table = Range(0, static_cast<int>(slots_ / 64));
    std::mt19937 random(7);
    std::shuffle(table.begin(), table.end(), random);
    return table;
  }

  std::vector<uint8_t> Seen() const {
    const std::vector<int32_t> table = Table();
    std::vector<uint8_t> seen(slots_, 0);
    for (int slot = 0; slot <= last_; ++slot) {
      seen[c_.blocks ? table[slot / 64] * 64 + slot % 64 : slot] = 1;
    }
    return seen;
  }

  Case c_;
  int n_;
  int32_t last_;
  int64_t slots_;
  int64_t width_;
  DeviceArray<int32_t> positions_;
  DeviceArray<int32_t> table_;
  DeviceArray<__nv_bfloat16> q_;
  DeviceArray<__nv_bfloat16> k_;
  DeviceArray<__nv_bfloat16> v_;
  DeviceArray<__nv_bfloat16> out_;
  DeviceArray<uint8_t> workspace_;
};

}  // namespace tessera::cuda

#endif  // TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_ATTENTION_BENCH_CUH_
