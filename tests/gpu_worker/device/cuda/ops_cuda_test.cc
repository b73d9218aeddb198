// The CUDA operations on rows, products and slices against the CPU's, through the common interface,
// over odd shapes. Bounds (ops_pair.h): what moves numbers is exact; sums of floats differ by 1e-5;
// what is rounded to bf16 once by 2.5e-3.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gpu_worker/device/cuda/kv_pair.h"
#include "tests/gpu_worker/device/cuda/ops_pair.h"

namespace tessera {
namespace {

// `count` of `all` whole numbers, each once, ascending.
std::vector<int32_t> SomeOf(int64_t all, int64_t count, uint32_t seed) {
  std::vector<int32_t> numbers(all);
  std::iota(numbers.begin(), numbers.end(), 0);
  std::shuffle(numbers.begin(), numbers.end(), std::mt19937(seed));
  numbers.resize(count);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

std::vector<int32_t> AnyOf(int64_t all, int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> numbers(count);
  for (int32_t& x : numbers) x = static_cast<int32_t>(random() % all);
  return numbers;
}

class RowsTest : public OpsPairTest, public ::testing::WithParamInterface<int64_t> {};

TEST_P(RowsTest, EmbedIsExact) {
  const int64_t rows = GetParam(), cols = 576;
  const Shared table(memory(), Random(999 * cols, 1), DType::kBf16);
  const Both out = Both::Poisoned(memory(), rows, cols, DType::kF32);
  const std::vector<int32_t> ids = AnyOf(999, rows, 2);
  cpu().Embed(table.CpuWeight(0, 999, cols), ids, out.cpu());
  cuda().Embed(table.CudaWeight(0, 999, cols), ids, out.cuda());
  ExpectSame("Embed", out.CudaValues(), out.CpuValues());
}

TEST_P(RowsTest, RmsNormOfTheResidualStream) {
  const int64_t rows = GetParam();
  for (const int64_t cols : {64, 576, 2048, 5120}) {
    const Shared gain(memory(), Random(cols, 1), DType::kF32);
    const Both x(memory(), rows, cols, Random(rows * cols, 2), DType::kF32);
    const Both out = Both::Poisoned(memory(), rows, cols);
    cpu().RmsNorm(x.cpu(), gain.CpuFloats(0, cols), 1e-5f, out.cpu());
    cuda().RmsNorm(x.cuda(), gain.CudaFloats(0, cols), 1e-5f, out.cuda());
    ExpectClose("RmsNorm", out.CudaValues(), out.CpuValues(), kRoundedOnce);
  }
}

TEST_P(RowsTest, RmsNormOfHeadsInPlaceAndElsewhere) {
  const int64_t rows = GetParam();
  for (const int64_t head_dim : {64, 80, 96, 128, 256}) {
    const int64_t cols = 3 * head_dim;
    const Shared gain(memory(), Random(head_dim, 1), DType::kF32);
    const Both x(memory(), rows, cols, Random(rows * cols, 2));
    const Both out = Both::Poisoned(memory(), rows, cols);
    const Floats before = x.CudaValues();
    cuda().RmsNorm(x.cuda(), gain.CudaFloats(0, head_dim), 1e-6f, out.cuda());
    ExpectSame("RmsNorm's input", x.CudaValues(), before);
    cuda().RmsNorm(x.cuda(), gain.CudaFloats(0, head_dim), 1e-6f, x.cuda());
    cpu().RmsNorm(x.cpu(), gain.CpuFloats(0, head_dim), 1e-6f, x.cpu());
    ExpectClose("RmsNorm of heads", x.CudaValues(), x.CpuValues(), kRoundedOnce);
    ExpectSame("RmsNorm elsewhere", out.CudaValues(), x.CudaValues());
  }
}

TEST_P(RowsTest, SwiGluOfColumnsSideBySide) {
  const int64_t rows = GetParam();
  for (const int64_t cols : {8, 96, 1536}) {
    const Both gate(memory(), rows, cols, Random(rows * cols, 1));
    const Both up(memory(), rows, cols, Random(rows * cols, 2));
    const std::vector<Activations> wide = Activations::SideBySide(memory(), rows, {cols, cols});
    std::vector<int32_t> all(rows);
    std::iota(all.begin(), all.end(), 0);
    cuda().GatherRows(gate.cuda(), all, wide[0]);
    cuda().GatherRows(up.cuda(), all, wide[1]);
    cpu().SwiGlu(gate.cpu(), up.cpu());
    cuda().SwiGlu(gate.cuda(), up.cuda());
    cuda().SwiGlu(wide[0], wide[1]);
    ExpectClose("SwiGlu", gate.CudaValues(), gate.CpuValues(), kRoundedOnce);
    ExpectSame("SwiGlu's input", up.CudaValues(), up.CpuValues());
    cuda().GatherRows(wide[0], all, up.cuda());
    ExpectSame("SwiGlu of columns", up.CudaValues(), gate.CudaValues());
  }
}

TEST_P(RowsTest, GatherRowsIsExact) {
  const int64_t rows = GetParam(), cols = 136;
  const std::vector<int32_t> wanted = AnyOf(411, rows, 1);
  const Indices on_device(memory(), wanted);
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    const Both x(memory(), 411, cols, Random(411 * cols, 2), dtype);
    const Both out = Both::Poisoned(memory(), rows, cols, dtype);
    cpu().GatherRows(x.cpu(), wanted, out.cpu());
    cuda().GatherRows(x.cuda(), on_device, out.cuda());
    ExpectSame("GatherRows", out.CudaValues(), out.CpuValues());
  }
}

TEST_P(RowsTest, RotateColumns) {
  const int64_t rows = GetParam();
  for (const int64_t head_dim : {64, 80, 96, 128, 256}) {
    const RopeTable rope = RopeFor(head_dim, 700);
    const Both x(memory(), rows, 3 * head_dim, Random(rows * 3 * head_dim, 1));
    const std::vector<int32_t> positions = SomeOf(700, rows, 2);
    cpu().Rotate(x.cpu(), positions, rope);
    cuda().Rotate(x.cuda(), positions, rope);
    ExpectClose("Rotate", x.CudaValues(), x.CpuValues(), kRoundedOnce);
  }
}

TEST_P(RowsTest, RotateAndWriteKvWritesItsSlotsAlone) {
  const int64_t rows = GetParam();
  for (const int64_t head_dim : {64, 80, 96, 128, 256}) {
    for (const bool pooled : {false, true}) {
      const RopeTable rope = RopeFor(head_dim, 700);
      const KvPair kv(memory(), ModelOf(2, 2, head_dim), 333, pooled);
      const Both k(memory(), rows, 2 * head_dim, Random(rows * 2 * head_dim, 1));
      const Both v(memory(), rows, 2 * head_dim, Random(rows * 2 * head_dim, 2));
      const std::vector<int32_t> positions = SomeOf(333, rows, 3);
      cpu().RotateAndWriteKv(k.cpu(), v.cpu(), positions, rope, kv.cpu.Layer(1));
      cuda().RotateAndWriteKv(k.cuda(), v.cuda(), positions, rope, kv.cuda.Layer(1));
      ExpectWritten("RotateAndWriteKv", kv, 1, positions);
      ExpectSame("another layer's K", kv.cuda.Get(0).k, kv.cpu.Get(0).k);
    }
  }
}

TEST_P(RowsTest, DeviationsOfKAndOfV) {
  const int64_t rows = GetParam(), width = 192, others = 5;
  std::vector<SlicePair> pairs;
  std::vector<PlacedSlice> on_cpu, on_cuda;
  int64_t first = others;  // rows before the slices are left alone
  for (const int64_t tokens : {rows / 2, rows - rows / 2}) {
    pairs.emplace_back(memory(), tokens, width, 7 + first);
    on_cpu.push_back({pairs.back().cpu(), first});
    on_cuda.push_back({pairs.back().cuda(), first});
    first += tokens;
  }
  const Both fresh(memory(), first, width, Random(first * width, 1));
  for (const bool of_v : {false, true}) {
    const Both out(memory(), 1, first, Floats(first, 0.5f), DType::kF32);
    auto span = [&](Matrix x) { return absl::Span<float>(x.data(), static_cast<size_t>(first)); };
    cpu().Deviations(fresh.cpu(), on_cpu, of_v, span(out.cpu()));
    cuda().Deviations(fresh.cuda(), on_cuda, of_v, span(out.cuda()));
    ExpectClose("Deviations", out.CudaValues(), out.CpuValues(), kSumsOfFloats);
  }
  if (rows == 0) return;
  const Both one = Both::Poisoned(memory(), 1, rows - rows / 2, DType::kF32);
  const auto count = static_cast<size_t>(rows - rows / 2);
  cpu().Deviation(fresh.cpu().Slice(others + rows / 2, count), on_cpu[1].slice.k,
                  {one.cpu().data(), count});
  cuda().Deviation(fresh.cuda().Slice(others + rows / 2, count), on_cuda[1].slice.k,
                   {one.cuda().data(), count});
  ExpectClose("Deviation", one.CudaValues(), one.CpuValues(), kSumsOfFloats);
}

TEST_P(RowsTest, RoundToSliceIsExact) {
  const int64_t rows = GetParam(), width = 160;
  const Both k(memory(), rows, width, Random(rows * width, 1));
  const Both v(memory(), rows, width, Random(rows * width, 2));
  std::vector<Bf16> slice_k(rows * width), slice_v(rows * width);
  const Activations slice(memory(), DType::kBf16, 2 * rows, width);
  cpu().RoundToSlice(k.cpu(), v.cpu(), slice_k.data(), slice_v.data());
  cuda().RoundToSlice(k.cuda(), v.cuda(), static_cast<Bf16*>(slice->memory),
                      static_cast<Bf16*>(slice->At(rows, 0)));
  const int64_t numbers = rows * width;
  ExpectSame("slice's K", ReadNumbers(memory(), DType::kBf16, slice->memory, numbers),
             Widen(slice_k));
  ExpectSame("slice's V", ReadNumbers(memory(), DType::kBf16, slice->At(rows, 0), numbers),
             Widen(slice_v));
  ExpectSame("rounded K", k.CudaValues(), k.CpuValues());
}

INSTANTIATE_TEST_SUITE_P(Rows, RowsTest, ::testing::Values(0, 1, 2, 17, 65, 300));

TEST_F(OpsPairTest, TheDeviceSaysWhatItIs) {
  EXPECT_FALSE(memory().is_host());
  EXPECT_EQ(cuda().name().rfind("cuda-bf16", 0), 0u);
}

TEST_F(OpsPairTest, PlaceSlicesOfManyPieces) {
  for (const int64_t head_dim : {64, 80, 96, 128, 256}) {
    for (const bool pooled : {false, true}) {
      const int64_t width = 3 * head_dim;
      const RopeTable rope = RopeFor(head_dim, 1200);
      const KvPair kv(memory(), ModelOf(1, 3, head_dim), 1111, pooled);
      std::vector<SlicePair> pairs;
      std::vector<PlacedSlice> on_cpu, on_cuda;
      std::vector<int32_t> written;
      int64_t first = 5;
      // As pieces of chunks; then many short ones, with a slot between them.
      std::vector<int64_t> tokens = {256, 256, 1, 0, 65, 300};
      tokens.resize(60, 2);
      pairs.reserve(tokens.size());
      for (const int64_t n : tokens) {
        pairs.emplace_back(memory(), n, width, static_cast<uint32_t>(first));
        on_cpu.push_back({pairs.back().cpu(), first});
        on_cuda.push_back({pairs.back().cuda(), first});
        for (int64_t t = 0; t < n; ++t) written.push_back(static_cast<int32_t>(first + t));
        first += n + 1;
      }
      cpu().PlaceSlices(on_cpu, rope, kv.cpu.Layer());
      cuda().PlaceSlices(on_cuda, rope, kv.cuda.Layer());
      cuda().PlaceSlices({}, rope, kv.cuda.Layer());
      cuda().PlaceSlice(on_cuda[1].slice, on_cuda[1].first, rope, kv.cuda.Layer());
      ExpectWritten("PlaceSlices", kv, 0, written);
    }
  }
}

struct Product {
  int64_t rows, outputs, inputs;
  bool bias;
};

void PrintTo(const Product& p, std::ostream* to) {
  *to << p.rows << " rows, " << p.outputs << " outputs, " << p.inputs << " inputs"
      << (p.bias ? ", bias" : "");
}

class MatMulTest : public OpsPairTest, public ::testing::WithParamInterface<Product> {};

TEST_P(MatMulTest, EqualsTheCpus) {
  const auto [rows, outputs, inputs, with_bias] = GetParam();
  const Both x(memory(), rows, inputs, Random(rows * inputs, 1));
  const Shared w(memory(), Random(outputs * inputs, 2), DType::kBf16);
  const Shared bias(memory(), Random(outputs, 3), DType::kF32);
  const size_t biased = with_bias ? outputs : 0;
  const Weight on_cpu = w.CpuWeight(0, outputs, inputs), on_cuda = w.CudaWeight(0, outputs, inputs);
  for (const bool accumulate : {false, true}) {
    const Floats before = accumulate ? Random(rows * outputs, 4) : Poison(rows * outputs);
    const Both out(memory(), rows, outputs, before, DType::kF32);
    const Both by_row(memory(), rows, outputs, before, DType::kF32);
    cpu().MatMul(x.cpu(), on_cpu, bias.CpuFloats(0, biased), accumulate, out.cpu());
    cuda().MatMul(x.cuda(), on_cuda, bias.CudaFloats(0, biased), accumulate, out.cuda());
    cuda().MatMulByRow(x.cuda(), on_cuda, bias.CudaFloats(0, biased), accumulate, by_row.cuda());
    ExpectClose("MatMul to f32", out.CudaValues(), out.CpuValues(), kSumsOfFloats);
    ExpectClose("MatMulByRow to f32", by_row.CudaValues(), out.CpuValues(), kSumsOfFloats);
  }
  const Both out = Both::Poisoned(memory(), rows, outputs);
  const Both by_row = Both::Poisoned(memory(), rows, outputs);
  cpu().MatMul(x.cpu(), on_cpu, bias.CpuFloats(0, biased), false, out.cpu());
  cuda().MatMul(x.cuda(), on_cuda, bias.CudaFloats(0, biased), false, out.cuda());
  cuda().MatMulByRow(x.cuda(), on_cuda, bias.CudaFloats(0, biased), false, by_row.cuda());
  ExpectClose("MatMul to bf16", out.CudaValues(), out.CpuValues(), kRoundedOnce);
  ExpectClose("MatMulByRow to bf16", by_row.CudaValues(), out.CpuValues(), kRoundedOnce);
}

INSTANTIATE_TEST_SUITE_P(
    OddShapes, MatMulTest,
    ::testing::Values(Product{0, 192, 576, true}, Product{1, 192, 576, true},
                      Product{1, 4104, 2048, false}, Product{2, 8, 8, true},
                      Product{17, 136, 1000, false}, Product{64, 576, 1536, true},
                      Product{65, 192, 576, true}, Product{65, 1000, 136, false},
                      Product{300, 576, 1536, false}, Product{300, 264, 72, true}));

// The same bits in any company, at any place.
TEST_F(OpsPairTest, MatMulByRowOfARowAlone) {
  for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{200, 576}, {1032, 104}}) {
    const int64_t rows = 150;
    const Both x(memory(), rows, inputs, Random(rows * inputs, 1));
    const Shared w(memory(), Random(outputs * inputs, 2), DType::kBf16);
    const Shared bias(memory(), Random(outputs, 3), DType::kF32);
    const Weight weight = w.CudaWeight(0, outputs, inputs);
    const absl::Span<const float> b = bias.CudaFloats(0, outputs);
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      const bool accumulate = dtype == DType::kF32;
      const Floats before = Random(rows * outputs, 4);
      const Both all(memory(), rows, outputs, before, dtype);
      cuda().MatMulByRow(x.cuda(), weight, b, accumulate, all.cuda());
      for (const int64_t company : {1, 2, 5, 17, 33, 64}) {
        const Both some(memory(), rows, outputs, before, dtype);
        for (int64_t r = 0; r < rows; r += company) {
          const int64_t n = std::min(company, rows - r);
          cuda().MatMulByRow(x.cuda().Slice(r, n), weight, b, accumulate, some.cuda().Slice(r, n));
        }
        ExpectSame("MatMulByRow in company", some.CudaValues(), all.CudaValues());
      }
    }
  }
}

// What is listed is exact; masses are sums of doubles in another order.
TEST_F(OpsPairTest, SummariesOfLogits) {
  for (const int64_t vocab : {5, 1024, 32003, 151936}) {
    for (const int64_t rows : {1, 33}) {
      const Both logits(memory(), rows, vocab, Random(rows * vocab, 1), DType::kF32);
      Floats temperatures(rows, 1.0f);
      for (int64_t r = 0; r < rows; r += 2) temperatures[r] = 0.7f;
      const Shared at(memory(), temperatures, DType::kF32);
      const size_t bytes = LogitsSummaries(nullptr, rows, vocab).Bytes();
      const std::shared_ptr<void> on_device = AllocateShared(memory(), bytes);
      std::vector<double> want_memory(bytes / sizeof(double) + 1), got_memory(want_memory.size());
      const LogitsSummaries want(want_memory.data(), rows, vocab);
      const LogitsSummaries got(got_memory.data(), rows, vocab);
      cpu().SummarizeLogits(logits.cpu(), at.CpuFloats(0, rows).data(), want);
      cuda().SummarizeLogits(logits.cuda(), at.CudaFloats(0, rows).data(),
                             LogitsSummaries(on_device.get(), rows, vocab));
      memory().Download(on_device.get(), bytes, got_memory.data());
      for (int64_t r = 0; r < rows; ++r) {
        EXPECT_EQ(got.Of(r).ids, want.Of(r).ids) << "row " << r << " of " << vocab;
        EXPECT_EQ(got.Of(r).likeliest, want.Of(r).likeliest);
        EXPECT_EQ(got.Of(r).tops, want.Of(r).tops);
        for (int64_t s = 0; s < want.segments_per_row; ++s) {
          const double mass = want.Of(r).masses[s], scaled = want.Of(r).masses_at_temperature[s];
          ASSERT_NEAR(got.Of(r).masses[s], mass, 1e-13 * mass);
          ASSERT_NEAR(got.Of(r).masses_at_temperature[s], scaled, 1e-13 * scaled);
        }
      }
    }
  }
}

// q, k and v of one weight in memory, and apart.
TEST_F(OpsPairTest, MatMulManySideBySideAndApart) {
  const std::vector<int64_t> outputs = {576, 192, 200};
  const int64_t inputs = 576, sum = 968;
  const Shared w(memory(), Random((sum + 8) * inputs, 2), DType::kBf16);
  const Shared bias(memory(), Random(sum + 8, 3), DType::kF32);
  for (const int64_t rows : {1, 17, 65, 300}) {
    const Both x(memory(), rows, inputs, Random(rows * inputs, 1));
    for (int variant = 0; variant < 8; ++variant) {
      const bool with_bias = variant & 1, by_row = variant & 2, apart = variant & 4;
      std::vector<Weight> on_cpu, on_cuda;
      std::vector<absl::Span<const float>> cpu_bias, cuda_bias;
      std::vector<Both> outs;
      std::vector<Matrix> cpu_out, cuda_out;
      const std::vector<Activations> side = Activations::SideBySide(memory(), rows, outputs);
      int64_t first = 0;
      for (size_t i = 0; i < outputs.size(); ++i) {
        if (i == 2 && apart) first += 8;
        const int64_t n = outputs[i];
        on_cpu.push_back(w.CpuWeight(first, n, inputs));
        on_cuda.push_back(w.CudaWeight(first, n, inputs));
        cpu_bias.push_back(bias.CpuFloats(first, with_bias ? n : 0));
        cuda_bias.push_back(bias.CudaFloats(first, with_bias ? n : 0));
        outs.push_back(Both::Poisoned(memory(), rows, n));
        cpu_out.push_back(outs[i].cpu());
        cuda_out.push_back(side[i]);
        first += n;
      }
      cpu().MatMulMany(x.cpu(), on_cpu, cpu_bias, by_row, cpu_out);
      cuda().MatMulMany(x.cuda(), on_cuda, cuda_bias, by_row, cuda_out);
      std::vector<int32_t> all(rows);
      std::iota(all.begin(), all.end(), 0);
      for (size_t i = 0; i < outputs.size(); ++i) {
        cuda().GatherRows(side[i], all, outs[i].cuda());
        ExpectClose("MatMulMany", outs[i].CudaValues(), outs[i].CpuValues(), kRoundedOnce);
        if (!by_row) continue;
        const Floats many = outs[i].CudaValues();
        cuda().MatMulByRow(x.cuda(), on_cuda[i], cuda_bias[i], false, outs[i].cuda());
        ExpectSame("MatMulMany by row", many, outs[i].CudaValues());
      }
    }
  }
}

}  // namespace
}  // namespace tessera
