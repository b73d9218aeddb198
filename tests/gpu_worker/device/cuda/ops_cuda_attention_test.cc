// The CUDA operations over KV memory against the CPU's, through the common interface, over odd
// shapes. Bounds (ops_pair.h): attention 4e-3, since probabilities and results are rounded to bf16;
// the attention that slots got, which is of floats, 1e-5; what the correction adds 8e-3 (its
// weights are of bf16 and its result is rounded). A row of a decode step has the same bits alone
// and in a batch, a corrected layer the same however layers were prepared.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gpu_worker/device/cuda/kv_pair.h"
#include "tests/gpu_worker/device/cuda/ops_pair.h"

namespace tessera {
namespace {

constexpr double kCorrected = 8e-3;
constexpr int64_t kBlockSlots = LayerKv::kBlockSlots;

struct Shape {
  int64_t rows, keys, kv_heads, group, head_dim;
  int64_t q_cols() const { return kv_heads * group * head_dim; }
};

void PrintTo(const Shape& s, std::ostream* to) {
  *to << s.rows << " rows, " << s.keys << " keys, " << s.kv_heads << " KV heads, " << s.group
      << " query heads each, of " << s.head_dim;
}

class AttentionTest : public OpsPairTest, public ::testing::WithParamInterface<Shape> {
 protected:
  // Ascending positions within the keys, with gaps when there is room; the last is the last key.
  static std::vector<int32_t> Positions(const Shape& s) {
    std::vector<int32_t> all(s.keys);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end() - 1, std::mt19937(5));
    std::vector<int32_t> positions(all.begin(), all.begin() + s.rows - 1);
    positions.push_back(static_cast<int32_t>(s.keys - 1));
    std::sort(positions.begin(), positions.end());
    return positions;
  }

  // Slots behind the keys hold NaN: nobody may look at them.
  KvPair Kv(const Shape& s, bool pooled) const {
    KvPair kv(memory(), ModelOf(1, s.kv_heads, s.head_dim), s.keys + 70, pooled);
    KvNumbers numbers = RandomKv(s.kv_heads, kv.cpu.slots(), s.head_dim, 3);
    for (int64_t h = 0; h < s.kv_heads; ++h) {
      for (int64_t i = (h * kv.cpu.slots() + s.keys) * s.head_dim;
           i < (h + 1) * kv.cpu.slots() * s.head_dim; ++i) {
        numbers.k[i] = numbers.v[i] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    kv.Set(0, numbers);
    return kv;
  }
};

TEST_P(AttentionTest, Attend) {
  const Shape s = GetParam();
  const std::vector<int32_t> positions = Positions(s);
  const Indices on_device(memory(), positions);
  const Both q(memory(), s.rows, s.q_cols(), Random(s.rows * s.q_cols(), 2));
  Floats first;
  for (const bool pooled : {false, true}) {
    const KvPair kv = Kv(s, pooled);
    const Both out = Both::Poisoned(memory(), s.rows, s.q_cols());
    cpu().Attend(q.cpu(), positions, kv.cpu.Layer(), out.cpu());
    cuda().Attend(q.cuda(), on_device, kv.cuda.Layer(), out.cuda());
    const Floats got = out.CudaValues();
    ExpectClose("Attend", got, out.CpuValues(), kAttention);
    cuda().Attend(q.cuda(), positions, kv.cuda.Layer(), out.cuda());
    ExpectSame("Attend again", out.CudaValues(), got);
  }
}

TEST_P(AttentionTest, AttendScored) {
  const Shape s = GetParam();
  const std::vector<int32_t> positions = Positions(s);
  const Both q(memory(), s.rows, s.q_cols(), Random(s.rows * s.q_cols(), 2));
  const auto slots = static_cast<size_t>(s.keys + 9);
  for (const bool pooled : {false, true}) {
    const KvPair kv = Kv(s, pooled);
    for (const bool by_value_norm : {false, true}) {
      const Both out = Both::Poisoned(memory(), s.rows, s.q_cols());
      // On the CPU the norms of V are taken of slots that nobody sees too: only the keys' are
      // asked.
      const Both scores(memory(), 1, slots, Floats(slots, 0.0f), DType::kF32);
      cpu().AttendScored(q.cpu(), positions, kv.cpu.Layer(), by_value_norm, out.cpu(),
                         {scores.cpu().data(), static_cast<size_t>(s.keys)});
      cuda().AttendScored(q.cuda(), positions, kv.cuda.Layer(), by_value_norm, out.cuda(),
                          {scores.cuda().data(), slots});
      ExpectClose("AttendScored", out.CudaValues(), out.CpuValues(), kAttention);
      const Floats got = scores.CudaValues();
      ExpectClose(by_value_norm ? "scores by value norm" : "scores", got, scores.CpuValues(),
                  kSumsOfFloats);
      cuda().AttendScored(q.cuda(), positions, kv.cuda.Layer(), by_value_norm, out.cuda(),
                          {scores.cuda().data(), slots});
      Floats twice = got;  // they are added up
      for (float& x : twice) x *= 2;
      ExpectClose("scores added up", scores.CudaValues(), twice, kSumsOfFloats);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(OddShapes, AttentionTest,
                         ::testing::Values(Shape{1, 1, 1, 1, 64}, Shape{1, 700, 2, 3, 64},
                                           Shape{2, 2000, 2, 4, 128}, Shape{17, 17, 1, 8, 80},
                                           Shape{65, 1000, 1, 4, 96}, Shape{65, 65, 2, 1, 256},
                                           Shape{300, 1033, 3, 3, 64}, Shape{300, 300, 1, 8, 128},
                                           Shape{300, 520, 2, 4, 256}, Shape{300, 777, 2, 1, 128},
                                           Shape{700, 2900, 2, 4, 128}));

TEST_F(OpsPairTest, AttentionOfNoRowsDoesNothing) {
  const KvPair kv(memory(), ModelOf(1, 2, 64), 70, true);
  const Both none(memory(), 0, 256, {});
  const Both scores(memory(), 1, 8, Floats(8, 0.25f), DType::kF32);
  cuda().Attend(none.cuda(), {}, kv.cuda.Layer(), none.cuda());
  cuda().AttendScored(none.cuda(), {}, kv.cuda.Layer(), true, none.cuda(),
                      {scores.cuda().data(), 8});
  cuda().AttendRows(none.cuda(), {}, {{}, 1}, kv.cuda.Pool(), none.cuda());
  cuda().RotateAndWriteRows(none.cuda(), none.cuda().Columns(0, 128), none.cuda().Columns(0, 128),
                            {}, RopeFor(64, 4), {{}, 1}, kv.cuda.Pool());
  ExpectSame("scores of no rows", scores.CudaValues(), Floats(8, 0.25f));
}

// Requests of different lengths in one pool. Their tables are stretches of one shuffled list of
// blocks, so that request r's slot s is slot r * width * kBlockSlots + s of a TestKv.
class DecodeTest : public OpsPairTest, public ::testing::WithParamInterface<Shape> {
 protected:
  static constexpr int64_t kWidth = 16;

  static std::vector<int32_t> Positions(const Shape& s) {
    std::mt19937 random(9);
    std::vector<int32_t> positions;
    for (int64_t r = 0; r < s.rows; ++r) {
      positions.push_back(static_cast<int32_t>(r == 0 ? s.keys - 1 : random() % s.keys));
    }
    return positions;
  }

  // Tables of `width` of these requests' blocks; what lies behind a request's last slot is no
  // block.
  static std::vector<int32_t> Tables(const TestKv& kv, absl::Span<const int32_t> positions,
                                     int64_t first, int64_t width) {
    std::vector<int32_t> tables;
    for (size_t r = 0; r < positions.size(); ++r) {
      for (int64_t i = 0; i < width; ++i) {
        tables.push_back(i > positions[r] / kBlockSlots ? 1 << 30
                                                        : kv.blocks()[(first + r) * kWidth + i]);
      }
    }
    return tables;
  }
};

TEST_P(DecodeTest, AttendRowsInAnyCompany) {
  const Shape s = GetParam();
  const KvPair kv(memory(), ModelOf(1, s.kv_heads, s.head_dim), s.rows * kWidth * kBlockSlots,
                  true);
  const std::vector<int32_t> positions = Positions(s);
  const Both q(memory(), s.rows, s.q_cols(), Random(s.rows * s.q_cols(), 2));
  const Both out = Both::Poisoned(memory(), s.rows, s.q_cols());
  cpu().AttendRows(q.cpu(), positions, {Tables(kv.cpu, positions, 0, kWidth), kWidth},
                   kv.cpu.Pool(), out.cpu());
  const Indices tables(memory(), Tables(kv.cuda, positions, 0, kWidth));
  cuda().AttendRows(q.cuda(), Indices(memory(), positions), {tables, kWidth}, kv.cuda.Pool(),
                    out.cuda());
  ExpectClose("AttendRows", out.CudaValues(), out.CpuValues(), kAttention);
  for (const int64_t company : {1, 3}) {
    const Both some = Both::Poisoned(memory(), s.rows, s.q_cols());
    for (int64_t r = 0; r < s.rows; r += company) {
      const int64_t n = std::min(company, s.rows - r);
      const auto at = absl::MakeConstSpan(positions).subspan(r, n);
      const int64_t width = *std::max_element(at.begin(), at.end()) / kBlockSlots + 1;
      cuda().AttendRows(q.cuda().Slice(r, n), at, {Tables(kv.cuda, at, r, width), width},
                        kv.cuda.Pool(), some.cuda().Slice(r, n));
    }
    ExpectSame("AttendRows in company", some.CudaValues(), out.CudaValues());
  }
}

TEST_P(DecodeTest, RotateAndWriteRowsInAnyCompany) {
  const Shape s = GetParam();
  const ModelConfig model = ModelOf(1, s.kv_heads, s.head_dim);
  const KvPair together(memory(), model, s.rows * kWidth * kBlockSlots, true);
  const KvPair alone(memory(), model, s.rows * kWidth * kBlockSlots, true);
  const RopeTable rope = RopeFor(s.head_dim, s.keys);
  const std::vector<int32_t> positions = Positions(s);
  const int64_t width = s.kv_heads * s.head_dim;
  const Both k(memory(), s.rows, width, Random(s.rows * width, 1));
  const Both v(memory(), s.rows, width, Random(s.rows * width, 2));
  const Both q(memory(), s.rows, width * s.group, Random(s.rows * width * s.group, 3));
  const Both q_alone(memory(), s.rows, width * s.group, q.CpuValues());
  for (int64_t r = 0; r < s.rows; ++r) {
    const auto at = absl::MakeConstSpan(positions).subspan(r, 1);
    cuda().RotateAndWriteRows(q_alone.cuda().Slice(r, 1), k.cuda().Slice(r, 1),
                              v.cuda().Slice(r, 1), at, rope,
                              {Tables(alone.cuda, at, r, kWidth), kWidth}, alone.cuda.Pool());
  }
  const Both same_k(memory(), s.rows, width, k.CpuValues());  // k need not have stayed
  cpu().RotateAndWriteRows(q.cpu(), k.cpu(), v.cpu(), positions, rope,
                           {Tables(together.cpu, positions, 0, kWidth), kWidth},
                           together.cpu.Pool());
  const Indices tables(memory(), Tables(together.cuda, positions, 0, kWidth));
  cuda().RotateAndWriteRows(q.cuda(), same_k.cuda(), v.cuda(), Indices(memory(), positions), rope,
                            {tables, kWidth}, together.cuda.Pool());
  std::vector<int32_t> written;
  for (int64_t r = 0; r < s.rows; ++r) {
    written.push_back(static_cast<int32_t>(r * kWidth * kBlockSlots + positions[r]));
  }
  ExpectWritten("RotateAndWriteRows", together, 0, written);
  ExpectClose("q of RotateAndWriteRows", q.CudaValues(), q.CpuValues(), kRoundedOnce);
  ExpectSame("q rotated alone", q_alone.CudaValues(), q.CudaValues());
  ExpectSame("rows written alone", alone.cuda.Get().k, together.cuda.Get().k);
}

INSTANTIATE_TEST_SUITE_P(OddShapes, DecodeTest,
                         ::testing::Values(Shape{1, 1, 1, 1, 64}, Shape{2, 1024, 2, 3, 64},
                                           Shape{17, 1000, 1, 8, 80}, Shape{17, 700, 2, 4, 128},
                                           Shape{5, 1024, 2, 1, 256}, Shape{65, 300, 1, 4, 96}));

// Chunks of several pieces, with the slices of every layer.
class CorrectionTest : public OpsPairTest {
 protected:
  static constexpr int64_t kLayers = 5, kHeads = 2, kSlots = 2000;

  struct Case {
    std::vector<CorrectedChunk> chunks;
    std::vector<std::vector<std::vector<SlicePair>>> slices;  // [layer][chunk][piece]
    std::vector<Both> fresh_k, fresh_v;                       // by layer
    RopeTable rope;

    CorrectedSlices Slices(int64_t layer, bool on_cuda) const {
      CorrectedSlices all;
      for (const std::vector<SlicePair>& pieces : slices[layer]) {
        std::vector<SliceView>& to = all.emplace_back();
        for (const SlicePair& piece : pieces) to.push_back(on_cuda ? piece.cuda() : piece.cpu());
      }
      return all;
    }
  };

  Case MakeCase(int64_t head_dim) const {
    Case made;
    made.rope = RopeFor(head_dim, kSlots);
    // With `fewest`: nothing. Then few picked rows, many, and all but some.
    const std::vector<std::vector<int64_t>> tokens = {
        {40}, {256, 256, 31}, {256, 100}, {17}, {655}};
    const std::vector<int64_t> picked = {3, 55, 290, 11, 40};
    int64_t first = 3, fresh = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      CorrectedChunk chunk = {.first_position = first};
      const int64_t all = std::accumulate(tokens[i].begin(), tokens[i].end(), int64_t{0});
      std::vector<int32_t> rows(all);
      std::iota(rows.begin(), rows.end(), 0);
      std::shuffle(rows.begin(), rows.end(), std::mt19937(static_cast<uint32_t>(i)));
      chunk.picked.assign(rows.begin(), rows.begin() + picked[i]);
      std::sort(chunk.picked.begin(), chunk.picked.end());
      for (int64_t p = 0; p < picked[i]; ++p) {
        chunk.fresh_rows.push_back(static_cast<int32_t>(fresh++));
      }
      fresh += 2;  // rows that belong to no chunk
      first += all + 4;
      made.chunks.push_back(std::move(chunk));
    }
    const int64_t width = kHeads * head_dim;
    uint32_t seed = 1;
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      auto& chunks = made.slices.emplace_back();
      for (const std::vector<int64_t>& pieces : tokens) {
        auto& to = chunks.emplace_back();
        for (const int64_t n : pieces) to.emplace_back(memory(), n, width, ++seed);
      }
      Floats k = Random(fresh * width, ++seed);
      for (int64_t i = 20 * width; i < 21 * width; ++i) k[i] *= 32;  // an outlier, to be bounded
      made.fresh_k.emplace_back(memory(), fresh, width, k);
      made.fresh_v.emplace_back(memory(), fresh, width, Random(fresh * width, ++seed));
    }
    return made;
  }

  // Zeros, so that what is there afterwards is the change.
  KvPair Zeros(int64_t head_dim, bool pooled) const {
    KvPair kv(memory(), ModelOf(kLayers, kHeads, head_dim), kSlots, pooled);
    const Floats zeros(kHeads * kv.cpu.slots() * head_dim, 0.0f);
    for (int64_t layer = 0; layer < kLayers; ++layer) kv.Set(layer, {zeros, zeros});
    return kv;
  }

  // Prepares groups of so many layers, one behind the other, and applies all.
  std::vector<KvNumbers> Run(Ops& ops, const Case& c, const TestKv& kv,
                             const std::vector<int64_t>& groups) const {
    const bool on_cuda = &ops == &cuda();
    const LayerKv shape = kv.Layer();
    const CorrectionConstants constants;
    const std::unique_ptr<Correction> correction =
        ops.MakeCorrection(c.chunks, constants, {kLayers, shape.kv_heads, shape.head_dim}, c.rope);
    int64_t first = 0;
    for (const int64_t count : groups) {
      std::vector<CorrectedSlices> layers;
      for (int64_t i = 0; i < count; ++i) layers.push_back(c.Slices(first + i, on_cuda));
      correction->Prepare(first, std::move(layers));
      first += count;
    }
    std::vector<KvNumbers> after;
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const Both &k = c.fresh_k[layer], &v = c.fresh_v[layer];
      correction->Apply(layer, on_cuda ? k.cuda() : k.cpu(), on_cuda ? v.cuda() : v.cpu(),
                        kv.Layer(layer));
    }
    for (int64_t layer = 0; layer < kLayers; ++layer) after.push_back(kv.Get(layer));
    return after;
  }
};

TEST_F(CorrectionTest, PreparedManyLayersAtOnceAndOneByOne) {
  for (const int64_t head_dim : {64, 80, 128}) {
    const Case c = MakeCase(head_dim);
    std::vector<KvNumbers> first;
    for (const bool pooled : {false, true}) {
      for (const std::vector<int64_t>& groups :
           std::vector<std::vector<int64_t>>{{5}, {1, 1, 1, 1, 1}, {1, 3, 1}, {3, 1, 1}}) {
        const KvPair kv = Zeros(head_dim, pooled);
        const std::vector<KvNumbers> got = Run(cuda(), c, kv.cuda, groups);
        if (groups.size() > 1) {
          for (int64_t layer = 0; layer < kLayers; ++layer) {
            ExpectSame("correction of K, prepared otherwise", got[layer].k, first[layer].k);
            ExpectSame("correction of V, prepared otherwise", got[layer].v, first[layer].v);
          }
          continue;
        }
        const std::vector<KvNumbers> want = Run(cpu(), c, kv.cpu, groups);
        for (int64_t layer = 0; layer < kLayers; ++layer) {
          ExpectClose("correction of K", got[layer].k, want[layer].k, kCorrected);
          ExpectClose("correction of V", got[layer].v, want[layer].v, kCorrected);
        }
        first = got;
      }
    }
  }
}

TEST_F(CorrectionTest, CorrectAddsToWhatIsThere) {
  const Case c = MakeCase(96);
  const KvPair kv(memory(), ModelOf(kLayers, kHeads, 96), kSlots, true);
  auto run = [&](Ops& ops, const TestKv& to, bool on_cuda) {
    std::vector<CorrectionTask> tasks;
    CorrectedSlices slices = c.Slices(2, on_cuda);
    for (size_t i = 0; i < c.chunks.size(); ++i) {
      tasks.push_back(
          {slices[i], c.chunks[i].first_position, c.chunks[i].picked, c.chunks[i].fresh_rows});
    }
    const Both &k = c.fresh_k[2], &v = c.fresh_v[2];
    ops.Correct(tasks, on_cuda ? k.cuda() : k.cpu(), on_cuda ? v.cuda() : v.cpu(),
                CorrectionConstants(), c.rope, to.Layer(2));
  };
  run(cpu(), kv.cpu, false);
  run(cuda(), kv.cuda, true);
  ExpectClose("Correct of K", kv.cuda.Get(2).k, kv.cpu.Get(2).k, kCorrected);
  ExpectClose("Correct of V", kv.cuda.Get(2).v, kv.cpu.Get(2).v, kCorrected);
  ExpectSame("another layer", kv.cuda.Get(1).k, kv.cpu.Get(1).k);
}

TEST_F(CorrectionTest, NothingToCorrectAndCancelledCorrections) {
  const Case c = MakeCase(64);
  const KvPair kv = Zeros(64, true);
  const KvShape shape = {kLayers, kHeads, 64};
  // No chunks at all; only chunks with too few picked rows; layers prepared and never applied.
  for (const size_t chunks : {0, 1, 5}) {
    std::vector<CorrectedSlices> layers;
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      layers.push_back(c.Slices(layer, true));
      layers.back().resize(chunks);
    }
    const std::unique_ptr<Correction> correction = cuda().MakeCorrection(
        absl::MakeConstSpan(c.chunks).first(chunks), CorrectionConstants(), shape, c.rope);
    correction->Prepare(0, layers);
    if (chunks == 5) continue;
    correction->Apply(1, c.fresh_k[1].cuda(), c.fresh_v[1].cuda(), kv.cuda.Layer(1));
  }
  ExpectSame("nothing to correct", kv.cuda.Get(1).k, kv.cpu.Get(1).k);
}

}  // namespace
}  // namespace tessera
