// Which of cuBLASLt's algorithms makes which products. Plain C++: it needs no CUDA.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_CHOICES_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_CHOICES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace tessera::cuda {

// out (+)= x w^T + bias of any number of rows; x: [rows][k], w: [n][k]. Of bf16, but for out where
// it says so, and bias, which is of floats.
struct GemmProduct {
  int64_t n = 0, k = 0;
  bool to_float = false;    // out is of floats, else of bf16
  bool accumulate = false;  // out += ..., of floats only
  bool bias = false;

  auto operator<=>(const GemmProduct&) const = default;
};

// An algorithm, and how it came to be chosen.
struct GemmChoice {
  std::array<uint64_t, 8> algorithm = {};  // a cublasLtMatmulAlgo_t
  int rank = 0;                            // place in the library's order; 0 is its first
  int candidates = 0;                      // that were timed; 0: it was not measured
  float us = 0;                            // of the chosen one
  float first_us = 0;                      // of the library's first
};

// What choices hold for: with anything else, other algorithms may be faster, or none at all.
struct GemmPlatform {
  std::string card;
  int compute_major = 0, compute_minor = 0;
  uint64_t library = 0;  // cuBLASLt's version
  int driver = 0;        // the CUDA version that the driver offers

  bool operator==(const GemmPlatform&) const = default;
};

class GemmChoices {
 public:
  using ByRows = std::map<int64_t, GemmChoice>;

  void Set(const GemmProduct& product, int64_t rows, const GemmChoice& choice) {
    by_product_[product][rows] = choice;
  }

  // The one of the next number of rows that was measured, or of the largest if all were smaller;
  // null when the product never was. Valid until the next Set.
  const GemmChoice* For(const GemmProduct& product, int64_t rows) const {
    const auto found = by_product_.find(product);
    if (found == by_product_.end()) return nullptr;
    const ByRows& by_rows = found->second;
    const auto next = by_rows.lower_bound(rows);
    return next == by_rows.end() ? &by_rows.rbegin()->second : &next->second;
  }

  size_t size() const {
    size_t all = 0;
    for (const auto& [product, by_rows] : by_product_) all += by_rows.size();
    return all;
  }

  const std::map<GemmProduct, ByRows>& by_product() const { return by_product_; }

 private:
  std::map<GemmProduct, ByRows> by_product_;  // no ByRows is empty
};

// The numbers of rows to measure a product at that is made of up to most_rows: a quarter of an
// octave apart, which is 64 rows up to 512, and no more than 8192. The last one is the first that
// is at least most_rows.
inline std::vector<int64_t> GemmRowsToMeasure(int64_t most_rows) {
  constexpr int64_t kLeast = 128, kMost = 8192, kLeastStep = 64;
  std::vector<int64_t> all;
  for (int64_t octave = kLeast; octave <= kMost; octave *= 2) {
    const int64_t step = octave / 4 < kLeastStep ? kLeastStep : octave / 4;
    for (int64_t rows = octave; rows < 2 * octave && rows <= kMost; rows += step) {
      if (!all.empty() && all.back() >= most_rows) return all;
      all.push_back(rows);
    }
  }
  return all;
}

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_CHOICES_H_
