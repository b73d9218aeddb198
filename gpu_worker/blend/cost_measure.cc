#include "gpu_worker/blend/cost_measure.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/clock.h"
#include "gpu_worker/blend/raw_chunk.h"

namespace tessera {
namespace {

constexpr int kRepeats = 3;
// Rows of a chunk that is placed and corrected, at most.
constexpr int64_t kChunkRows = 768;

// Rows of a short and of a long pass, rows and keys of an attention. A device of its own has so
// many cores that only larger work shows what a row costs.
struct Sizes {
  int64_t few, many, queries, scored_queries, keys;
};
constexpr Sizes kOnHost = {16, 256, 32, 32, 1024}, kOnDevice = {16, 2048, 1024, 64, 8192};

// Seconds of the fastest of a few runs; the first one warms caches up and is not timed.
double Fastest(DeviceMemory& device, absl::FunctionRef<void(int run)> work) {
  double fastest = std::numeric_limits<double>::infinity();
  for (int run = 0; run <= kRepeats; ++run) {
    device.Synchronize();
    const absl::Time start = absl::Now();
    work(run);
    device.Synchronize();
    if (run > 0) fastest = std::min(fastest, absl::ToDoubleSeconds(absl::Now() - start));
  }
  return fastest;
}

class Measurement {
 public:
  explicit Measurement(const Decoder& decoder)
      : decoder_(decoder),
        ops_(decoder.ops()),
        model_(decoder.config()),
        sizes_(decoder.memory().is_host() ? kOnHost : kOnDevice),
        keys_(std::min(sizes_.keys, decoder.max_len())),
        long_(std::min(sizes_.many, keys_)),
        short_(std::min(sizes_.few, long_)),
        kv_(decoder.MakeKv(keys_)),
        h_(decoder.Embed(Ids(long_))),
        fresh_(decoder.ProjectQkv(0, h_)) {
    // The cost does not depend on the numbers, but for denormal ones: real K and V are used.
    for (int64_t first = 0; first < keys_; first += long_) {
      const int64_t rows = std::min(long_, keys_ - first);
      ops_.RotateAndWriteKv(fresh_.k->Slice(0, rows), fresh_.v->Slice(0, rows),
                            PositionsFrom(first, rows), decoder.rope(), kv_.Layer(0));
    }
  }

  CostCoefficients Run() {
    CostCoefficients costs;
    costs.layers = model_.layers;
    costs.kv_width = 2 * model_.kv_heads * model_.head_dim;
    costs.row_block = decoder_.memory().row_block();
    const auto layers = static_cast<double>(model_.layers);
    costs.pair = layers * PairSeconds(/*scored=*/false);
    costs.scored_pair = layers * PairSeconds(/*scored=*/true);
    const double few = LayerSeconds(short_) * layers - costs.pair * Half(short_);
    const double many = LayerSeconds(long_) * layers - costs.pair * Half(long_);
    const auto more_rows = static_cast<double>(std::max<int64_t>(1, long_ - short_));
    // A device that is idle between two lengths would give nothing for a row.
    costs.row = std::max(many - few, many * 0.1) / more_rows;
    costs.pass = std::max(0.0, few - static_cast<double>(short_) * costs.row);
    PlaceAndCorrect(&costs);
    const Matrix last = h_->Slice(0, 1);
    costs.logits = Fastest(decoder_.memory(), [&](int) { decoder_.Logits(last); });
    return costs;
  }

 private:
  static double Half(int64_t rows) { return static_cast<double>(rows * rows) / 2; }

  std::vector<uint32_t> Ids(int64_t count) const {
    std::vector<uint32_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<uint32_t>(i % model_.vocab));
    return ids;
  }

  // Of one pair in one layer.
  double PairSeconds(bool scored) {
    const int64_t rows = std::min(scored ? sizes_.scored_queries : sizes_.queries, long_);
    const std::vector<int32_t> positions = PositionsFrom(keys_ - rows, rows);
    const Matrix q = fresh_.q->Slice(0, rows);
    const Activations out = decoder_.MakeRows(rows, q.cols);
    const Activations scores(decoder_.memory(), DType::kF32, 1, keys_);
    const double seconds = Fastest(decoder_.memory(), [&](int) {
      if (scored) {
        ops_.AttendScored(q, positions, kv_.Layer(0), /*by_value_norm=*/true, out,
                          {scores->data(), static_cast<size_t>(keys_)});
      } else {
        ops_.Attend(q, positions, kv_.Layer(0), out);
      }
    });
    return seconds / static_cast<double>(rows * keys_);
  }

  // Each run takes another layer, as a pass does: its weights are not in the caches yet.
  double LayerSeconds(int64_t rows) {
    const std::vector<int32_t> positions = PositionsFrom(0, rows);
    const size_t bytes = rows * model_.hidden * sizeof(float);
    return Fastest(decoder_.memory(), [&](int run) {
      const Activations h(decoder_.memory(), DType::kF32, rows, model_.hidden);
      decoder_.memory().Copy(h_->memory, bytes, h->memory, bytes, bytes, 1);
      decoder_.RunLayer(run % model_.layers, positions, kv_, h, rows);
    });
  }

  void PlaceAndCorrect(CostCoefficients* costs) {
    const auto layers = static_cast<double>(model_.layers);
    const int64_t rows = std::min(long_, kChunkRows);
    RawChunk chunk(model_, rows, rows, decoder_.memory());
    ops_.RoundToSlice(fresh_.k->Slice(0, rows), fresh_.v->Slice(0, rows), chunk.SliceK(0, 0),
                      chunk.SliceV(0, 0));
    const LayerKv memory = kv_.Layer(0);
    const double placing = Fastest(decoder_.memory(), [&](int) {
      ops_.PlaceSlice(chunk.Slice(0, 0), 0, decoder_.rope(), memory);
    });
    costs->placed_row = placing * layers / static_cast<double>(rows);
    CorrectionTask task;
    task.pieces.push_back(chunk.Slice(0, 0));
    for (int64_t row = 0; row < rows; row += 6) {
      task.fresh_rows.push_back(static_cast<int32_t>(task.picked.size()));
      task.picked.push_back(static_cast<int32_t>(row));
    }
    const std::vector<CorrectionTask> tasks = {task};
    const double correcting = Fastest(decoder_.memory(), [&](int) {
      ops_.Correct(tasks, fresh_.k, fresh_.v, CorrectionConstants(), decoder_.rope(), memory);
    });
    costs->correction =
        correcting / CorrectionWork(static_cast<double>(rows),
                                    static_cast<double>(task.picked.size()), costs->kv_width);
  }

  const Decoder& decoder_;
  Ops& ops_;
  const ModelConfig& model_;
  const Sizes sizes_;
  const int64_t keys_, long_, short_;
  const KvMemory kv_;
  const Activations h_;
  const Qkv fresh_;
};

}  // namespace

CostCoefficients MeasureCosts(const Decoder& decoder) { return Measurement(decoder).Run(); }

}  // namespace tessera
