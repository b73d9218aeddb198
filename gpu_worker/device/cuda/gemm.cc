#include "gpu_worker/device/cuda/gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/gemm_description.h"
#include "gpu_worker/device/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kMostCandidates = 16;
// Of pointers and rows, in bytes, as far as the library cares.
constexpr uint32_t kAlignment = 16;
constexpr int kTimedRounds = 3;
constexpr float kTimedUs = 300;  // of short products, several are timed together
constexpr float kNoise = 1.01f;
// Weights are cycled through at least so many bytes while a candidate is timed: more than the
// device's cache holds, as in a model, where a weight is not read again before all others were.
constexpr size_t kColdBytes = size_t{160} << 20;
// The end of the workspace holds a bias rounded to bf16.
constexpr size_t kBiasBytes = size_t{1} << 20;

// Of so many products the algorithm that fits is remembered; then all are asked for anew.
constexpr size_t kMostExact = 4096;
// After one round, candidates that took so much longer than the best are given up.
constexpr float kHopeless = 1.25f;

static_assert(sizeof(GemmChoice::algorithm) == sizeof(cublasLtMatmulAlgo_t));

}  // namespace

class Gemm::Library {
 public:
  Library() {
    CheckBlas("create", cublasLtCreate(&handle_));
    CUDA_OR_DIE("Gemm workspace",
                cudaMalloc(reinterpret_cast<void**>(&workspace_), kWorkspaceBytes));
    CUDA_OR_DIE("Gemm event", cudaEventCreate(&begin_));
    CUDA_OR_DIE("Gemm event", cudaEventCreate(&end_));
    int device = 0;
    cudaDeviceProp properties;
    CUDA_OR_DIE("device", cudaGetDevice(&device));
    CUDA_OR_DIE("device", cudaGetDeviceProperties(&properties, device));
    platform_ = {.card = properties.name,
                 .compute_major = properties.major,
                 .compute_minor = properties.minor,
                 .library = cublasLtGetVersion()};
    CUDA_OR_DIE("driver", cudaDriverGetVersion(&platform_.driver));
  }

  ~Library() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaFree(workspace_);
    cublasLtDestroy(handle_);
  }

  void Run(const GemmProduct& product, int64_t m, int64_t x_stride, int64_t out_stride,
           const float* bias, const Operands& operands, cudaStream_t stream) {
    RequireGemmShape(product.k % 8 == 0 && x_stride % 8 == 0);
    if (m == 0 || product.n == 0) return;
    Description description(product, m, x_stride, out_stride);
    const Exact exact{product, m, x_stride, out_stride};
    cublasLtMatmulAlgo_t* const algorithm = AlgorithmFor(exact, description);
    if (product.bias) description.SetBias(BiasFor(product, bias, stream));
    cublasStatus_t status = Launch(description, product, *algorithm, operands, stream);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) {  // after all
      *algorithm = Heuristics(description, OutAlignment(product, out_stride), 1).front().algo;
      status = Launch(description, product, *algorithm, operands, stream);
    }
    CheckBlas("Gemm", status);
  }

  GemmChoice Measure(const GemmProduct& product, int64_t m);

  void Use(GemmChoices choices) {
    choices_ = std::move(choices);
    exact_.clear();
  }

  const GemmPlatform& platform() const { return platform_; }
  int64_t measurements() const { return measurements_; }

 private:
  // A product down to its strides.
  struct Exact {
    GemmProduct product;
    int64_t m, x_stride, out_stride;
    auto operator<=>(const Exact&) const = default;
  };

  struct Candidate {
    cublasLtMatmulAlgo_t algorithm;
    int rank = 0;
    float first_us = 0;  // of its first run
    float us = std::numeric_limits<float>::infinity();
  };

  size_t workspace_bytes() const { return kWorkspaceBytes - kBiasBytes; }

  // The bias as the library takes it: of out's type.
  const void* BiasFor(const GemmProduct& product, const float* bias, cudaStream_t stream) {
    if (product.to_float) return bias;
    RequireGemmShape(product.n * 2 <= static_cast<int64_t>(kBiasBytes));
    auto* rounded = reinterpret_cast<__nv_bfloat16*>(workspace_ + workspace_bytes());
    const int64_t n = product.n;
    F32ToBf16({const_cast<float*>(bias), 1, n, n}, {rounded, 1, n, n}, stream);
    return rounded;
  }

  cublasStatus_t Launch(Description& description, const GemmProduct& product,
                        const cublasLtMatmulAlgo_t& algorithm, const Operands& operands,
                        cudaStream_t stream) {
    const float one = 1, held = product.accumulate ? 1 : 0;
    return cublasLtMatmul(handle_, description.product(), &one, operands.w, description.w(),
                          operands.x, description.x(), &held, operands.out, description.out(),
                          operands.out, description.out(), &algorithm, workspace_,
                          workspace_bytes(), stream);
  }

  static uint32_t OutAlignment(const GemmProduct& product, int64_t out_stride) {
    return static_cast<uint32_t>(
        std::gcd(int64_t{kAlignment}, out_stride * (product.to_float ? 4 : 2)));
  }

  std::vector<cublasLtMatmulHeuristicResult_t> Heuristics(Description& description,
                                                          uint32_t out_alignment, int most) {
    cublasLtMatmulPreference_t preference;
    CheckBlas("preference", cublasLtMatmulPreferenceCreate(&preference));
    auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      CheckBlas("preference",
                cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace_bytes()});
    // Matrices may be columns of wider ones.
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kAlignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kAlignment);
    // Of the rows too: not every product's begin where the pointer's alignment holds.
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out_alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out_alignment);
    // A split K is added up from the workspace, in order; never by atomic additions.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    std::vector<cublasLtMatmulHeuristicResult_t> results(most);
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, description.product(), description.w(), description.x(), description.out(),
        description.out(), preference, most, results.data(), &count);
    cublasLtMatmulPreferenceDestroy(preference);
    CheckBlas("heuristic", status);
    results.resize(count);
    std::erase_if(results, [](const auto& r) { return r.state != CUBLAS_STATUS_SUCCESS; });
    if (results.empty()) CheckBlas("heuristic", CUBLAS_STATUS_NOT_SUPPORTED);
    return results;
  }

  // Valid until the next call.
  cublasLtMatmulAlgo_t* AlgorithmFor(const Exact& exact, Description& description) {
    const auto known = exact_.find(exact);
    if (known != exact_.end()) return &known->second;
    if (exact_.size() >= kMostExact) exact_.clear();
    const uint32_t alignment = OutAlignment(exact.product, exact.out_stride);
    const GemmChoice* const choice = choices_.For(exact.product, exact.m);
    if (choice != nullptr && alignment == kAlignment) {
      const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(choice->algorithm);
      if (Fits(algorithm, description)) return &exact_.emplace(exact, algorithm).first->second;
    }
    return &exact_.emplace(exact, Heuristics(description, alignment, 1).front().algo).first->second;
  }

  // The choice was made for another number of rows, and may be from a file.
  bool Fits(const cublasLtMatmulAlgo_t& algorithm, Description& description) {
    cublasLtMatmulHeuristicResult_t result;
    const cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle_, description.product(), description.w(), description.x(),
                                description.out(), description.out(), &algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace_bytes();
  }

  static GemmChoice ChoiceOf(const Candidate& best, const Candidate& first, int candidates) {
    return {std::bit_cast<decltype(GemmChoice::algorithm)>(best.algorithm), best.rank, candidates,
            best.us, first.us};
  }

  void Time(Description& description, const GemmProduct& product,
            const std::vector<Operands>& operands, std::vector<Candidate>* candidates);
  float TimeOf(Description& description, const GemmProduct& product,
               const cublasLtMatmulAlgo_t& algorithm, const std::vector<Operands>& operands,
               int runs);

  cublasLtHandle_t handle_ = nullptr;
  char* workspace_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  size_t next_operands_ = 0;
  int64_t measurements_ = 0;
  GemmPlatform platform_;
  GemmChoices choices_;
  std::map<Exact, cublasLtMatmulAlgo_t> exact_;
};

// Microseconds per run, over `runs` of them; infinity when the library does not support the
// candidate after all.
float Gemm::Library::TimeOf(Description& description, const GemmProduct& product,
                            const cublasLtMatmulAlgo_t& algorithm,
                            const std::vector<Operands>& operands, int runs) {
  CUDA_OR_DIE("Gemm time", cudaEventRecord(begin_, nullptr));
  for (int run = 0; run < runs; ++run) {
    const cublasStatus_t status = Launch(description, product, algorithm,
                                         operands[next_operands_++ % operands.size()], nullptr);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return std::numeric_limits<float>::infinity();
    CheckBlas("Gemm", status);
  }
  CUDA_OR_DIE("Gemm time", cudaEventRecord(end_, nullptr));
  CUDA_OR_DIE("Gemm time", cudaEventSynchronize(end_));
  float ms = 0;
  CUDA_OR_DIE("Gemm time", cudaEventElapsedTime(&ms, begin_, end_));
  return ms * 1000 / static_cast<float>(runs);
}

// Sets the candidates' times: of each the best of some rounds.
void Gemm::Library::Time(Description& description, const GemmProduct& product,
                         const std::vector<Operands>& operands,
                         std::vector<Candidate>* candidates) {
  float least = std::numeric_limits<float>::infinity();
  for (int round = 0; round <= kTimedRounds; ++round) {  // the first warms up
    for (Candidate& candidate : *candidates) {
      if (round == 0) {
        candidate.first_us = TimeOf(description, product, candidate.algorithm, operands, 1);
        continue;
      }
      if (round > 1 && candidate.us > kHopeless * least) continue;
      const int runs = static_cast<int>(std::clamp(kTimedUs / candidate.first_us, 1.0f, 8.0f));
      candidate.us =
          std::min(candidate.us, TimeOf(description, product, candidate.algorithm, operands, runs));
    }
    for (const Candidate& candidate : *candidates) least = std::min(least, candidate.us);
  }
}

GemmChoice Gemm::Library::Measure(const GemmProduct& product, int64_t m) {
  ++measurements_;
  Description description(product, m, product.k, product.n);
  std::vector<Candidate> candidates;
  for (const auto& found :
       Heuristics(description, OutAlignment(product, product.n), kMostCandidates)) {
    candidates.push_back({found.algo, static_cast<int>(candidates.size())});
  }
  const size_t w_bytes = static_cast<size_t>(product.n) * product.k * 2;
  const size_t x_bytes = static_cast<size_t>(m) * product.k * 2;
  const size_t out_bytes = static_cast<size_t>(m) * product.n * (product.to_float ? 4 : 2);
  const size_t copies = std::clamp<size_t>(kColdBytes / w_bytes, 1, 64);
  const size_t bias_bytes = (static_cast<size_t>(product.n) * 4 + 255) / 256 * 256;
  const size_t bytes = copies * w_bytes + x_bytes + bias_bytes + out_bytes;
  CUDA_OR_DIE("Gemm measure", cudaDeviceSynchronize());
  Scratch scratch(bytes);
  if (scratch.data() == nullptr) return ChoiceOf(candidates.front(), candidates.front(), 0);
  scratch.Fill(bytes);
  char* x = scratch.data() + copies * w_bytes;
  std::vector<Operands> operands;
  for (size_t i = 0; i < copies; ++i) {
    operands.push_back({x, scratch.data() + i * w_bytes, x + x_bytes + bias_bytes});
  }
  if (product.bias) description.SetBias(x + x_bytes);
  Time(description, product, operands, &candidates);
  float least = std::numeric_limits<float>::infinity();
  for (const Candidate& candidate : candidates) least = std::min(least, candidate.us);
  // Of those that differ by no more than noise, the library's favourite.
  const Candidate& best = *std::find_if(candidates.begin(), candidates.end(),
                                        [&](const Candidate& c) { return c.us <= kNoise * least; });
  return ChoiceOf(best, candidates.front(), static_cast<int>(candidates.size()));
}

Gemm::Gemm() : library_(std::make_unique<Library>()) {}
Gemm::~Gemm() = default;

void Gemm::Run(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
               F32Rows out, cudaStream_t stream) {
  RequireGemmShape(out.rows == x.rows && out.cols == n);
  library_->Run({n, x.cols, true, accumulate, bias != nullptr}, x.rows, x.stride, out.stride, bias,
                {x.data, w, out.data}, stream);
}

void Gemm::Run(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
               Bf16Rows out, cudaStream_t stream) {
  RequireGemmShape(out.rows == x.rows && out.cols == n && !accumulate);
  library_->Run({n, x.cols, false, false, bias != nullptr}, x.rows, x.stride, out.stride, bias,
                {x.data, w, out.data}, stream);
}

GemmPlatform Gemm::platform() const { return library_->platform(); }

GemmChoice Gemm::Measure(const GemmProduct& product, int64_t rows) {
  return library_->Measure(product, rows);
}

int64_t Gemm::measurements() const { return library_->measurements(); }

void Gemm::Use(GemmChoices choices) { library_->Use(std::move(choices)); }

}  // namespace tessera::cuda
