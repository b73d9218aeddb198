#include "gpu_worker/device/cpu/matmul.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "dnnl.hpp"
#include "glog/logging.h"
#include "gpu_worker/device/cpu/dot.h"

namespace tessera {
namespace {

// Up to this many rows a product is bound by reading the weights, and each weight row is read once
// for all.
constexpr int64_t kFewRows = 4;
// Rows of x that one pass over a weight row serves, and weight rows that stay in the first cache
// while the rows of x go by.
constexpr int64_t kRowsAtOnce = 3;
constexpr int64_t kWeightRowsAtOnce = 8;
// A product is cut into tasks of at most so many rows of x and rows of the weight. They depend on
// the shape alone, so the bits do not depend on the number of threads. Large enough that widening a
// panel for every block of rows, and oneDNN's packing of both, cost a few percent.
constexpr int64_t kMostRows = 256;
constexpr int64_t kMostPanelRows = 320;
// Panels for oneDNN's bf16 product, which packs by itself.
constexpr int64_t kBf16PanelRows = 256;

// out (+)= x times rows first .. last of w, for at most kRowsAtOnce rows of x.
template <typename Number>
void ProductOfRows(Matrix x, const Number* w, int64_t first, int64_t last, bool accumulate,
                   Matrix out) {
  float sums[kRowsAtOnce];
  for (int64_t n = first; n < last; ++n) {
    const Number* const row = w + n * x.cols;
    if (x.rows == 3) {
      DotRows<3>(x.data(), x.cols, row, x.cols, sums);
    } else if (x.rows == 2) {
      DotRows<2>(x.data(), x.cols, row, x.cols, sums);
    } else {
      DotRows<1>(x.data(), x.cols, row, x.cols, sums);
    }
    for (int64_t r = 0; r < x.rows; ++r) {
      out.Row(r)[n] = accumulate ? out.Row(r)[n] + sums[r] : sums[r];
    }
  }
}

void CheckShapes(Matrix x, const Weight& w, absl::Span<const float> bias, Matrix out) {
  CHECK_EQ(x.cols, w.cols);
  CHECK_EQ(out.cols, w.rows);
  CHECK_EQ(out.rows, x.rows);
  CHECK(bias.empty() || static_cast<int64_t>(bias.size()) == w.rows);
}

bool ProcessorHasBf16() {
  return __builtin_cpu_supports("avx512bf16") || __builtin_cpu_supports("amx-bf16");
}

}  // namespace

void Widen(const Bf16* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, LoadEight(from + i));
  for (; i < n; ++i) to[i] = ToFloat(from[i]);
}

float Dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  DotRows<1>(a, 0, b, n, &sum);
  return sum;
}

float Dot(const float* a, const Bf16* b, int64_t n) {
  float sum = 0;
  DotRows<1>(a, 0, b, n, &sum);
  return sum;
}

void ProductTransposed(int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                       const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  CHECK_EQ(dnnl_sgemm('N', 'T', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), dnnl_success);
}

void Product(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
             int64_t ldb, float beta, float* c, int64_t ldc) {
  CHECK_EQ(dnnl_sgemm('N', 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc), dnnl_success);
}

// oneDNN's bf16 product, one primitive per shape.
class MatMul::Bf16Products {
 public:
  Bf16Products() : engine_(dnnl::engine::kind::cpu, 0) {}

  // Whether this oneDNN makes such products here, and right: small ones with a known sum are tried.
  bool Work() {
    constexpr int64_t kM = 7, kN = 40, kK = 64;
    const std::vector<Bf16> a(kM * kK, ToBf16(0.5f)), b(kN * kK, ToBf16(-2.0f));
    std::vector<float> c(kM * kN, 1.0f);
    if (!Run(kM, kN, kK, a.data(), b.data(), /*accumulate=*/true, c.data(), kN)) return false;
    if (!Run(kM, kN, kK, a.data(), b.data(), /*accumulate=*/true, c.data(), kN)) return false;
    return std::all_of(c.begin(), c.end(), [](float x) { return x == 1.0f - 2 * kK; });
  }

  // c [m][n] (row stride ldc) (+)= a [m][k] b^T, b [n][k], on the calling thread. False, with c as
  // it was: oneDNN has no such product for this shape.
  bool Run(int64_t m, int64_t n, int64_t k, const Bf16* a, const Bf16* b, bool accumulate, float* c,
           int64_t ldc) {
    using Type = dnnl::memory::data_type;
    const dnnl::memory::desc a_desc({m, k}, Type::bf16, dnnl::memory::dims{k, 1});
    const dnnl::memory::desc b_desc({k, n}, Type::bf16, dnnl::memory::dims{1, k});
    const dnnl::memory::desc c_desc({m, n}, Type::f32, dnnl::memory::dims{ldc, 1});
    Product product;
    try {  // oneDNN's C++ face reports what it cannot do by an exception
      product = Primitive({m, n, k, ldc, accumulate}, a_desc, b_desc, c_desc);
    } catch (const dnnl::error&) {
      return false;
    }
    dnnl::stream stream(engine_);
    // A primitive may run on several threads at once only with scratch memory of each thread's own.
    thread_local std::vector<std::byte> scratch;
    scratch.resize(std::max(scratch.size(), product.scratch.get_size()));
    product.matmul.execute(
        stream, {{DNNL_ARG_SRC, dnnl::memory(a_desc, engine_, const_cast<Bf16*>(a))},
                 {DNNL_ARG_WEIGHTS, dnnl::memory(b_desc, engine_, const_cast<Bf16*>(b))},
                 {DNNL_ARG_DST, dnnl::memory(c_desc, engine_, c)},
                 {DNNL_ARG_SCRATCHPAD, dnnl::memory(product.scratch, engine_, scratch.data())}});
    stream.wait();
    return true;
  }

 private:
  struct Shape {
    int64_t m, n, k, ldc;
    bool accumulate;
    bool operator==(const Shape&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Shape& s) {
      return H::combine(std::move(h), s.m, s.n, s.k, s.ldc, s.accumulate);
    }
  };
  struct Product {
    dnnl::matmul matmul;
    dnnl::memory::desc scratch;
  };
  static constexpr size_t kMostShapes = 512;

  Product Primitive(const Shape& shape, const dnnl::memory::desc& a, const dnnl::memory::desc& b,
                    const dnnl::memory::desc& c) {
    absl::MutexLock lock(&mutex_);
    auto found = primitives_.find(shape);
    if (found != primitives_.end()) return found->second;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (shape.accumulate) {
      dnnl::post_ops add;
      add.append_sum();
      attributes.set_post_ops(add);
    }
    if (primitives_.size() >= kMostShapes) primitives_.clear();
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(a, b, c), attributes, engine_);
    Product product{dnnl::matmul(desc), desc.scratchpad_desc()};
    primitives_.emplace(shape, product);
    return product;
  }

  dnnl::engine engine_;
  absl::Mutex mutex_;
  absl::flat_hash_map<Shape, Product> primitives_ ABSL_GUARDED_BY(mutex_);
};

MatMul::MatMul(Parallel* parallel) : parallel_(parallel) {
  CHECK(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      << "this processor has no AVX2: the CPU worker needs it";
  if (!ProcessorHasBf16()) return;
  bf16_ = std::make_unique<Bf16Products>();
  if (!bf16_->Work()) {
    LOG_EVENT(kWarning, "bf16_unusable").With("products", "f32");
    bf16_.reset();
  }
}

MatMul::~MatMul() = default;

bool MatMul::uses_bf16() const { return bf16_ != nullptr; }

void MatMul::Run(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                 Matrix out) {
  if (x.rows <= kFewRows) return RunByRow(x, w, bias, accumulate, out);
  CheckShapes(x, w, bias, out);
  RunPanels(x, w, accumulate, out);
  AddBias(bias, out);
}

void MatMul::RunByRow(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                      Matrix out) {
  CheckShapes(x, w, bias, out);
  if (x.rows == 0) return;
  if (w.dtype == DType::kBf16) {
    RunRows(x, static_cast<const Bf16*>(w.data), accumulate, out);
  } else {
    RunRows(x, static_cast<const float*>(w.data), accumulate, out);
  }
  AddBias(bias, out);
}

void MatMul::AddBias(absl::Span<const float> bias, Matrix out) {
  if (bias.empty()) return;
  parallel_->ForRanges(out.rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      float* row = out.Row(r);
      for (int64_t i = 0; i < out.cols; ++i) row[i] += bias[i];
    }
  });
}

template <typename Number>
void MatMul::RunRows(Matrix x, const Number* w, bool accumulate, Matrix out) {
  const int64_t grain = std::clamp<int64_t>(out.cols / (4 * parallel_->threads()), 16, 2048);
  parallel_->ForRanges(out.cols, grain, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n += kWeightRowsAtOnce) {
      const int64_t end = std::min(last, n + kWeightRowsAtOnce);
      for (int64_t r = 0; r < x.rows; r += kRowsAtOnce) {
        ProductOfRows(x.Slice(r, std::min(kRowsAtOnce, x.rows - r)), w, n, end, accumulate,
                      out.Slice(r, std::min(kRowsAtOnce, x.rows - r)));
      }
    }
  });
}

void MatMul::RunPanels(Matrix x, const Weight& w, bool accumulate, Matrix out) {
  if (w.dtype == DType::kF32 || bf16_ == nullptr) {
    // An even number of panels serves an even number of cores.
    const int64_t panels = 2 * ((w.rows + 2 * kMostPanelRows - 1) / (2 * kMostPanelRows));
    const int64_t panel_rows = (w.rows + panels - 1) / panels;
    const int64_t blocks = (x.rows + kMostRows - 1) / kMostRows;
    parallel_->For(blocks * panels, [&](int64_t task) {
      const int64_t row = task / panels * kMostRows, first = task % panels * panel_rows;
      const int64_t rows = std::min(kMostRows, x.rows - row);
      RunWidePanel(x.Slice(row, rows), w, first, std::min(w.rows, first + panel_rows), accumulate,
                   out.Slice(row, rows));
    });
    return;
  }
  std::vector<Bf16> narrow(x.rows * x.cols);
  parallel_->ForRanges(static_cast<int64_t>(narrow.size()), 1 << 16,
                       [&](int64_t first, int64_t last) {
                         for (int64_t i = first; i < last; ++i) narrow[i] = ToBf16(x.data()[i]);
                       });
  parallel_->ForRanges(w.rows, kBf16PanelRows, [&](int64_t first, int64_t last) {
    const Bf16* panel = static_cast<const Bf16*>(w.data) + first * w.cols;
    if (bf16_->Run(x.rows, last - first, x.cols, narrow.data(), panel, accumulate,
                   out.data() + first, out.cols)) {
      return;
    }
    RunWidePanel(x, w, first, last, accumulate, out);
  });
}

// Rows first .. last of w in f32.
void MatMul::RunWidePanel(Matrix x, const Weight& w, int64_t first, int64_t last, bool accumulate,
                          Matrix out) {
  if (first >= last) return;
  const float* panel = nullptr;
  thread_local std::vector<float> wide;
  if (w.dtype == DType::kF32) {
    panel = static_cast<const float*>(w.data) + first * w.cols;
  } else {
    wide.resize((last - first) * w.cols);
    Widen(static_cast<const Bf16*>(w.data) + first * w.cols, (last - first) * w.cols, wide.data());
    panel = wide.data();
  }
  ProductTransposed(x.rows, last - first, x.cols, 1.0f, x.data(), x.cols, panel, w.cols,
                    accumulate ? 1.0f : 0.0f, out.data() + first, out.cols);
}

}  // namespace tessera
