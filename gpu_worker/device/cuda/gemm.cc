#include "gpu_worker/device/cuda/gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/gemm.cuh"
#include "gpu_worker/device/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kMostCandidates = 16;
constexpr int kTimedRounds = 3;
constexpr float kTimedUs = 300;  // of short products, several are timed together
constexpr float kNoise = 1.01f;
// Weights are cycled through at least so many bytes while a candidate is timed: more than the
// device's cache holds, as in a model, where a weight is not read again before all others were.
constexpr size_t kColdBytes = size_t{160} << 20;
// The end of the workspace holds a bias rounded to bf16.
constexpr size_t kBiasBytes = size_t{1} << 20;

Gemm::Key BucketOf(Gemm::Key key) {
  const int64_t step = key.m <= 512 ? 64 : 128;
  key.m = (key.m + step - 1) / step * step;
  return key;
}

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
    header_ =
        "tessera-gemm 1 cublasLt " + std::to_string(cublasLtGetVersion()) + " " + properties.name;
  }

  ~Library() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaFree(workspace_);
    cublasLtDestroy(handle_);
  }

  void Run(const Key& key, int64_t x_stride, int64_t out_stride, const float* bias,
           const Operands& operands, cudaStream_t stream) {
    RequireGemmShape(key.k % 8 == 0 && x_stride % 8 == 0);
    if (key.m == 0 || key.n == 0) return;
    const cublasLtMatmulAlgo_t& algorithm = AlgorithmFor(key, x_stride, out_stride, stream);
    Description description(key, x_stride, out_stride);
    if (key.bias) description.SetBias(BiasFor(key, bias, stream));
    CheckBlas("Gemm", Launch(description, key, algorithm, operands, stream));
  }

  Choice Warm(const Key& key) {
    const Key bucket = BucketOf(key);
    auto at = chosen_.find(bucket);
    if (at == chosen_.end()) at = chosen_.emplace(bucket, Measure(bucket)).first;
    return at->second.choice;
  }

  bool Save(const std::string& path) const;
  bool Load(const std::string& path);

 private:
  struct Chosen {
    cublasLtMatmulAlgo_t algorithm;
    Choice choice;
  };

  // A product down to its strides, for which the algorithm is known to fit.
  struct Exact {
    Key key;
    int64_t x_stride, out_stride;
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
  const void* BiasFor(const Key& key, const float* bias, cudaStream_t stream) {
    if (key.to_float) return bias;
    RequireGemmShape(key.n * 2 <= static_cast<int64_t>(kBiasBytes));
    auto* rounded = reinterpret_cast<__nv_bfloat16*>(workspace_ + workspace_bytes());
    F32ToBf16({const_cast<float*>(bias), 1, key.n, key.n}, {rounded, 1, key.n, key.n}, stream);
    return rounded;
  }

  cublasStatus_t Launch(Description& description, const Key& key,
                        const cublasLtMatmulAlgo_t& algorithm, const Operands& operands,
                        cudaStream_t stream) {
    const float one = 1, held = key.accumulate ? 1 : 0;
    return cublasLtMatmul(handle_, description.product(), &one, operands.w, description.w(),
                          operands.x, description.x(), &held, operands.out, description.out(),
                          operands.out, description.out(), &algorithm, workspace_,
                          workspace_bytes(), stream);
  }

  std::vector<cublasLtMatmulHeuristicResult_t> Heuristics(Description& description, int most) {
    cublasLtMatmulPreference_t preference;
    CheckBlas("preference", cublasLtMatmulPreferenceCreate(&preference));
    auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      CheckBlas("preference",
                cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace_bytes()});
    // Matrices may be columns of wider ones.
    for (auto alignment :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      set(alignment, uint32_t{16});
    }
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

  const cublasLtMatmulAlgo_t& AlgorithmFor(const Key& key, int64_t x_stride, int64_t out_stride,
                                           cudaStream_t stream) {
    const Exact exact{key, x_stride, out_stride};
    const auto known = exact_.find(exact);
    if (known != exact_.end()) return known->second;
    const Key bucket = BucketOf(key);
    auto chosen = chosen_.find(bucket);
    if (chosen == chosen_.end() && !Capturing(stream)) {
      chosen = chosen_.emplace(bucket, Measure(bucket)).first;
    }
    Description description(key, x_stride, out_stride);
    if (chosen != chosen_.end()) {
      cublasLtMatmulHeuristicResult_t result;
      const cublasStatus_t status = cublasLtMatmulAlgoCheck(
          handle_, description.product(), description.w(), description.x(), description.out(),
          description.out(), &chosen->second.algorithm, &result);
      if (status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace_bytes()) {
        return exact_.emplace(exact, chosen->second.algorithm).first->second;
      }
    }
    const cublasLtMatmulAlgo_t first = Heuristics(description, 1).front().algo;
    // Chosen only for want of a measurement: not for good.
    if (chosen == chosen_.end()) return unmeasured_ = first;
    return exact_.emplace(exact, first).first->second;
  }

  static bool Capturing(cudaStream_t stream) {
    cudaStreamCaptureStatus status;
    CUDA_OR_DIE("Gemm", cudaStreamIsCapturing(stream, &status));
    return status != cudaStreamCaptureStatusNone;
  }

  Chosen Measure(const Key& key);
  float TimeOf(Description& description, const Key& key, const cublasLtMatmulAlgo_t& algorithm,
               const std::vector<Operands>& operands, int runs);

  cublasLtHandle_t handle_ = nullptr;
  char* workspace_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  size_t next_operands_ = 0;
  std::string header_;
  std::map<Key, Chosen> chosen_;
  std::map<Exact, cublasLtMatmulAlgo_t> exact_;
  cublasLtMatmulAlgo_t unmeasured_;
};

// Microseconds per run, over `runs` of them; infinity when the library does not support the
// candidate after all.
float Gemm::Library::TimeOf(Description& description, const Key& key,
                            const cublasLtMatmulAlgo_t& algorithm,
                            const std::vector<Operands>& operands, int runs) {
  CUDA_OR_DIE("Gemm time", cudaEventRecord(begin_, nullptr));
  for (int run = 0; run < runs; ++run) {
    const cublasStatus_t status =
        Launch(description, key, algorithm, operands[next_operands_++ % operands.size()], nullptr);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return std::numeric_limits<float>::infinity();
    CheckBlas("Gemm", status);
  }
  CUDA_OR_DIE("Gemm time", cudaEventRecord(end_, nullptr));
  CUDA_OR_DIE("Gemm time", cudaEventSynchronize(end_));
  float ms = 0;
  CUDA_OR_DIE("Gemm time", cudaEventElapsedTime(&ms, begin_, end_));
  return ms * 1000 / static_cast<float>(runs);
}

Gemm::Library::Chosen Gemm::Library::Measure(const Key& key) {
  Description description(key, key.k, key.n);
  const std::vector<cublasLtMatmulHeuristicResult_t> found =
      Heuristics(description, kMostCandidates);
  const size_t w_bytes = static_cast<size_t>(key.n) * key.k * 2;
  const size_t x_bytes = static_cast<size_t>(key.m) * key.k * 2;
  const size_t out_bytes = static_cast<size_t>(key.m) * key.n * (key.to_float ? 4 : 2);
  const size_t copies = std::clamp<size_t>(kColdBytes / w_bytes, 1, 64);
  const size_t bias_bytes = (static_cast<size_t>(key.n) * 4 + 255) / 256 * 256;
  const size_t bytes = copies * w_bytes + x_bytes + bias_bytes + out_bytes;
  CUDA_OR_DIE("Gemm measure", cudaDeviceSynchronize());
  Scratch scratch(bytes);
  if (scratch.data() == nullptr) {
    std::fprintf(stderr, "event=gemm_not_measured m=%lld n=%lld k=%lld scratch_bytes=%zu\n",
                 static_cast<long long>(key.m), static_cast<long long>(key.n),
                 static_cast<long long>(key.k), bytes);
    return {found.front().algo, {}};
  }
  scratch.Fill(bytes);
  char* x = scratch.data() + copies * w_bytes;
  std::vector<Operands> operands;
  for (size_t i = 0; i < copies; ++i) {
    operands.push_back({x, scratch.data() + i * w_bytes, x + x_bytes + bias_bytes});
  }
  if (key.bias) description.SetBias(x + x_bytes);
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < found.size(); ++i) {
    candidates.push_back({found[i].algo, static_cast<int>(i)});
  }
  for (int round = 0; round <= kTimedRounds; ++round) {  // the first warms up
    for (Candidate& candidate : candidates) {
      if (round == 0) {
        candidate.first_us = TimeOf(description, key, candidate.algorithm, operands, 1);
        continue;
      }
      const int runs = static_cast<int>(std::clamp(kTimedUs / candidate.first_us, 1.0f, 8.0f));
      candidate.us =
          std::min(candidate.us, TimeOf(description, key, candidate.algorithm, operands, runs));
    }
  }
  float least = std::numeric_limits<float>::infinity();
  for (const Candidate& candidate : candidates) least = std::min(least, candidate.us);
  // Of those that differ by no more than noise, the library's favourite.
  const Candidate& best = *std::find_if(candidates.begin(), candidates.end(),
                                        [&](const Candidate& c) { return c.us <= kNoise * least; });
  return {best.algorithm,
          {best.rank, static_cast<int>(candidates.size()), best.us, candidates.front().us}};
}

// A line per bucket: its key, its choice, the algorithm's words in hexadecimal.
bool Gemm::Library::Save(const std::string& path) const {
  std::ofstream file(path);
  file << header_ << "\n";
  for (const auto& [key, chosen] : chosen_) {
    if (chosen.choice.candidates == 0) continue;
    file << key.m << " " << key.n << " " << key.k << " " << key.to_float << " " << key.accumulate
         << " " << key.bias << " " << chosen.choice.rank << " " << chosen.choice.candidates << " "
         << chosen.choice.us << " " << chosen.choice.first_us << std::hex;
    for (uint64_t word : chosen.algorithm.data) file << " " << word;
    file << std::dec << "\n";
  }
  file << "end\n";
  file.flush();
  return file.good();
}

bool Gemm::Library::Load(const std::string& path) {
  std::ifstream file(path);
  auto refuse = [&](const char* why) {
    std::fprintf(stderr, "event=gemm_choices_ignored path=%s why=\"%s\"\n", path.c_str(), why);
    return false;
  };
  std::string line;
  if (!std::getline(file, line)) return refuse("cannot be read");
  if (line != header_) return refuse("of another device or version");
  std::map<Key, Chosen> loaded;
  while (std::getline(file, line) && line != "end") {
    std::istringstream words(line);
    Key key;
    Chosen chosen;
    words >> key.m >> key.n >> key.k >> key.to_float >> key.accumulate >> key.bias >>
        chosen.choice.rank >> chosen.choice.candidates >> chosen.choice.us >>
        chosen.choice.first_us >> std::hex;
    for (uint64_t& word : chosen.algorithm.data) words >> word;
    if (words.fail() || BucketOf(key) != key) return refuse("broken");
    loaded[key] = chosen;
  }
  if (line != "end") return refuse("broken");
  // What was measured here already stays.
  chosen_.merge(loaded);
  exact_.clear();
  return true;
}

Gemm::Gemm() : library_(std::make_unique<Library>()) {}
Gemm::~Gemm() = default;

void Gemm::Run(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
               F32Rows out, cudaStream_t stream) {
  RequireGemmShape(out.rows == x.rows && out.cols == n);
  library_->Run({x.rows, n, x.cols, true, accumulate, bias != nullptr}, x.stride, out.stride, bias,
                {x.data, w, out.data}, stream);
}

void Gemm::Run(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
               Bf16Rows out, cudaStream_t stream) {
  RequireGemmShape(out.rows == x.rows && out.cols == n && !accumulate);
  library_->Run({x.rows, n, x.cols, false, false, bias != nullptr}, x.stride, out.stride, bias,
                {x.data, w, out.data}, stream);
}

Gemm::Choice Gemm::Warm(const Key& key) { return library_->Warm(key); }

bool Gemm::Save(const std::string& path) const { return library_->Save(path); }

bool Gemm::Load(const std::string& path) { return library_->Load(path); }

}  // namespace tessera::cuda
