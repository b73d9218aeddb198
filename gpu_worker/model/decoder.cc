#include "gpu_worker/model/decoder.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {

std::vector<int32_t> PositionsFrom(int64_t first, int64_t count) {
  std::vector<int32_t> positions(count);
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first));
  return positions;
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(const std::string& folder, int64_t max_len,
                                                       Ops* ops) {
  ASSIGN_OR_RETURN(ModelConfig config, ReadModelConfig(folder));
  if (max_len == 0) max_len = config.max_positions;
  if (max_len < 0 || max_len > config.max_positions) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_len is ", max_len, ", but this model reaches ", config.max_positions,
                     " tokens: set it between 1 and that"));
  }
  ASSIGN_OR_RETURN(Weights weights, LoadWeights(folder, config));
  return Make(std::move(config), std::move(weights), max_len, ops);
}

std::unique_ptr<Decoder> Decoder::Make(ModelConfig config, Weights weights, int64_t max_len,
                                       Ops* ops) {
  PutOnDevice(ops->memory(), &weights);
  return std::unique_ptr<Decoder>(new Decoder(std::move(config), std::move(weights), max_len, ops));
}

Decoder::Decoder(ModelConfig config, Weights weights, int64_t max_len, Ops* ops)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      max_len_(max_len),
      rope_(MakeRopeTable(config_.rope, config_.head_dim, max_len)),
      ops_(ops) {}

// What a decode step of so many rows reads and gives, in memory that stays: it can be replayed.
struct Decoder::PooledStep {
  explicit PooledStep(StepLogits logits) : logits(std::move(logits)) {}

  Indices ids, positions, tables;
  StepLogits logits;
  std::unique_ptr<Recording> recording;
};

Decoder::~Decoder() = default;

void Decoder::Prepare(const std::string& folder) const {
  const LayerWeights& w = weights_.layers[0];
  const DType narrow = memory().activation_type();
  // As a device with memory of its own makes them, where weights lie side by side. Logits are of a
  // few dozen rows at a time: their product is bound by the weight's bytes, whatever makes it.
  const int64_t block = std::min(max_len_, memory().row_block());
  ops_->Prepare(
      {{.inner = w.q.cols,
        .cols = w.q.rows + w.k.rows + w.v.rows,
        .out = narrow,
        .bias = !w.q_bias.empty(),
        .most_rows = max_len_},
       {.inner = w.o.cols, .cols = w.o.rows, .accumulate = true, .most_rows = max_len_},
       {.inner = w.gate.cols, .cols = w.gate.rows + w.up.rows, .out = narrow, .most_rows = block},
       {.inner = w.down.cols, .cols = w.down.rows, .accumulate = true, .most_rows = block}},
      folder);
}

Activations Decoder::Embed(absl::Span<const uint32_t> ids) const {
  Activations h(memory(), DType::kF32, static_cast<int64_t>(ids.size()), config_.hidden);
  ops_->Embed(weights_.embedding, std::vector<int32_t>(ids.begin(), ids.end()), h);
  return h;
}

void Decoder::MatMul(Matrix x, const Weight& w, bool accumulate, bool by_row, Matrix out) const {
  if (by_row) {
    ops_->MatMulByRow(x, w, {}, accumulate, out);
  } else {
    ops_->MatMul(x, w, {}, accumulate, out);
  }
}

Qkv Decoder::ProjectRows(int64_t layer, Matrix h, bool by_row) const {
  const LayerWeights& w = weights_.layers[layer];
  const Activations x = MakeRows(h.rows, h.cols);
  ops_->RmsNorm(h, w.input_norm, config_.rms_eps, x);
  std::vector<Activations> qkv =
      Activations::SideBySide(memory(), h.rows, {w.q.rows, w.k.rows, w.v.rows});
  ops_->MatMulMany(x, {w.q, w.k, w.v}, {w.q_bias, w.k_bias, w.v_bias}, by_row,
                   {qkv[0], qkv[1], qkv[2]});
  if (!w.q_norm.empty()) ops_->RmsNorm(qkv[0], w.q_norm, config_.rms_eps, qkv[0]);
  if (!w.k_norm.empty()) ops_->RmsNorm(qkv[1], w.k_norm, config_.rms_eps, qkv[1]);
  return {std::move(qkv[0]), std::move(qkv[1]), std::move(qkv[2])};
}

Qkv Decoder::ProjectQkv(int64_t layer, Matrix h) const {
  return ProjectRows(layer, h, /*by_row=*/false);
}

void Decoder::FinishRows(int64_t layer, Matrix attention, Matrix h, bool by_row) const {
  const LayerWeights& w = weights_.layers[layer];
  MatMul(attention, w.o, /*accumulate=*/true, by_row, h);
  const int64_t block = memory().row_block();
  for (int64_t first = 0; first < h.rows; first += block) {
    const Matrix rows = h.Slice(first, std::min(block, h.rows - first));
    const Activations x = MakeRows(rows.rows, rows.cols);
    const std::vector<Activations> wide =
        Activations::SideBySide(memory(), rows.rows, {config_.intermediate, config_.intermediate});
    const Matrix gate = wide[0], up = wide[1];
    ops_->RmsNorm(rows, w.post_attention_norm, config_.rms_eps, x);
    ops_->MatMulMany(x, {w.gate, w.up}, {}, by_row, {gate, up});
    // A width that is no multiple of the CPU's vectors would mix rows.
    const bool singly = by_row && memory().is_host();
    for (int64_t r = 0; singly && r < rows.rows; ++r) {
      ops_->SwiGlu(gate.Slice(r, 1), up.Slice(r, 1));
    }
    if (!singly) ops_->SwiGlu(gate, up);
    MatMul(gate, w.down, /*accumulate=*/true, by_row, rows);
  }
}

void Decoder::FinishLayer(int64_t layer, Matrix attention, Matrix h) const {
  FinishRows(layer, attention, h, /*by_row=*/false);
}

void Decoder::AttendAndFinish(int64_t layer, Qkv& fresh, IndexView kv_positions,
                              IndexView positions, const KvMemory& kv, Matrix h) const {
  const LayerKv in_layer = kv.Layer(layer);
  if (fresh.q->rows == fresh.k->rows) {
    ops_->RotateAndWrite(fresh.q, fresh.k, fresh.v, positions, rope_, in_layer);
  } else {
    ops_->RotateAndWriteKv(fresh.k, fresh.v, kv_positions, rope_, in_layer);
    ops_->Rotate(fresh.q, positions, rope_);
  }
  const Activations attention = MakeRows(h.rows, fresh.q->cols);
  ops_->Attend(fresh.q, positions, in_layer, attention);
  FinishLayer(layer, attention, h);
}

void Decoder::RunLayer(int64_t layer, IndexView positions, const KvMemory& kv, Matrix h,
                       int64_t needed) const {
  Qkv fresh = ProjectQkv(layer, h);
  const int64_t skipped = h.rows - needed;
  if (skipped > 0) fresh.q.KeepLastRows(needed);
  AttendAndFinish(layer, fresh, positions, positions.last(needed), kv, h.Slice(skipped, needed));
}

void Decoder::WriteLogits(Matrix h, bool by_row, Matrix logits) const {
  const Activations x = MakeRows(h.rows, h.cols);
  ops_->RmsNorm(h, weights_.final_norm, config_.rms_eps, x);
  MatMul(x, weights_.head, /*accumulate=*/false, by_row, logits);
}

Activations Decoder::ToHost(Activations x) const {
  if (memory().is_host()) return x;
  const Activations host = Activations::ForCopies(memory(), x->rows, x->cols);
  memory().Download(x->memory, x->rows * x->cols * sizeof(float), host->memory);
  return host;
}

Activations Decoder::Logits(Matrix h) const {
  const Activations logits(memory(), DType::kF32, h.rows, config_.vocab);
  WriteLogits(h, /*by_row=*/false, logits);
  return ToHost(logits);
}

Activations Decoder::LastRow(Matrix h) const {
  const Activations last(memory(), h.dtype, 1, h.cols);
  const size_t bytes = h.cols * BytesPer(h.dtype);
  memory().Copy(h.At(h.rows - 1, 0), bytes, last->memory, bytes, bytes, 1);
  return last;
}

Steps<absl::StatusOr<Activations>> Decoder::Extending(const KvMemory& kv,
                                                      absl::Span<const uint32_t> ids, int64_t first,
                                                      OnRows on_rows) const {
  CHECK(!ids.empty());
  CHECK_LE(first + static_cast<int64_t>(ids.size()), kv.capacity());
  Activations h;
  const auto most = static_cast<size_t>(memory().row_block());
  for (size_t done = 0; done < ids.size(); done += most) {
    const absl::Span<const uint32_t> block = ids.subspan(done, most);
    const auto at = first + static_cast<int64_t>(done);
    const Indices positions(memory(), PositionsFrom(at, block.size()));
    h = Embed(block);
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      if (done + layer > 0) co_await NextStep();
      const bool last = layer + 1 == config_.layers;
      RunLayer(layer, positions, kv, h, last && !on_rows ? 1 : h->rows);
    }
    if (on_rows) CO_RETURN_IF_ERROR(on_rows(at, h));
  }
  co_return LastRow(h);
}

absl::StatusOr<Activations> Decoder::Extend(const KvMemory& kv, absl::Span<const uint32_t> ids,
                                            int64_t first, const std::atomic<bool>& cancelled,
                                            OnRows on_rows) const {
  return RunSteps(Extending(kv, ids, first, std::move(on_rows)), cancelled);
}

StepLogits Decoder::Decode(absl::Span<const DecodeRow> rows) const {
  for (const DecodeRow& row : rows) CHECK_LT(row.position, row.kv->capacity());
  const KvPool* const pool = rows[0].kv->pool();
  const bool is_pooled =
      pool != nullptr && std::all_of(rows.begin(), rows.end(),
                                     [&](const DecodeRow& row) { return row.kv->pool() == pool; });
  return is_pooled ? DecodePooled(rows, *pool) : DecodeSingly(rows);
}

namespace {

std::vector<int32_t> WantedOf(absl::Span<const DecodeRow> rows) {
  std::vector<int32_t> wanted;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].wants_logits) wanted.push_back(static_cast<int32_t>(r));
  }
  return wanted;
}

std::vector<float> TemperaturesOf(absl::Span<const DecodeRow> rows) {
  std::vector<float> temperatures;
  for (const DecodeRow& row : rows) temperatures.push_back(row.temperature);
  return temperatures;
}

std::vector<int32_t> IdsOf(absl::Span<const DecodeRow> rows) {
  std::vector<int32_t> ids;
  for (const DecodeRow& row : rows) ids.push_back(static_cast<int32_t>(row.id));
  return ids;
}

std::vector<int32_t> PositionsOf(absl::Span<const DecodeRow> rows) {
  std::vector<int32_t> positions;
  for (const DecodeRow& row : rows) positions.push_back(static_cast<int32_t>(row.position));
  return positions;
}

// The rows' tables of blocks, each `width` long.
std::vector<int32_t> TablesOf(absl::Span<const DecodeRow> rows, size_t width) {
  std::vector<int32_t> tables(rows.size() * width, 0);
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<int32_t>& blocks = rows[r].kv->blocks();
    std::copy_n(blocks.begin(), std::min(width, blocks.size()), tables.begin() + r * width);
  }
  return tables;
}

// Steps that keep memory and what a device recorded of them; then it begins anew.
constexpr size_t kMostPooledSteps = 128;

// As long as the longest row needs, in powers of two, so that few lengths come up.
size_t TableWidth(absl::Span<const DecodeRow> rows) {
  int64_t longest = 0;
  for (const DecodeRow& row : rows) longest = std::max(longest, row.position);
  return std::bit_ceil(static_cast<size_t>(longest / LayerKv::kBlockSlots + 1));
}

}  // namespace

DecodedLogits Decoder::DecodeToSample(absl::Span<const DecodeRow> rows) const {
  return DecodedLogits(Decode(rows), WantedOf(rows));
}

Activations Decoder::DecodeRows(absl::Span<const DecodeRow> rows) const {
  const Activations logits = Decode(rows).logits();
  const std::vector<int32_t> wanted = WantedOf(rows);
  if (wanted.size() == rows.size()) return ToHost(logits);
  const Activations shown(memory(), DType::kF32, static_cast<int64_t>(wanted.size()), logits->cols);
  ops_->GatherRows(logits, wanted, shown);
  return ToHost(shown);
}

StepLogits Decoder::DecodePooled(absl::Span<const DecodeRow> rows, const KvPool& pool) const {
  const size_t width = TableWidth(rows);
  if (pooled_steps_.size() == kMostPooledSteps && !pooled_steps_.contains({rows.size(), width})) {
    pooled_steps_.clear();
  }
  std::unique_ptr<PooledStep>& step = pooled_steps_[{rows.size(), width}];
  if (step == nullptr) {
    step = std::make_unique<PooledStep>(
        StepLogits(memory(), static_cast<int64_t>(rows.size()), config_.vocab));
  }
  step->ids.Set(memory(), IdsOf(rows));
  step->positions.Set(memory(), PositionsOf(rows));
  step->tables.Set(memory(), TablesOf(rows, width));
  step->logits.SetTemperatures(TemperaturesOf(rows));
  ops_->Repeat(&step->recording, [&] {
    const TablesView tables{step->tables, static_cast<int64_t>(width)};
    const Activations h(memory(), DType::kF32, step->ids.size(), config_.hidden);
    ops_->Embed(weights_.embedding, step->ids, h);
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const Qkv fresh = ProjectRows(layer, h, /*by_row=*/true);
      const LayerKv in_layer = pool.Layer(layer, {});
      ops_->RotateAndWriteRows(fresh.q, fresh.k, fresh.v, step->positions, rope_, tables, in_layer);
      const Activations attention = MakeRows(h->rows, fresh.q->cols);
      ops_->AttendRows(fresh.q, step->positions, tables, in_layer, attention);
      FinishRows(layer, attention, h, /*by_row=*/true);
    }
    WriteLogits(h, /*by_row=*/true, step->logits.logits());
    step->logits.Summarize(*ops_);
  });
  return step->logits;
}

StepLogits Decoder::DecodeSingly(absl::Span<const DecodeRow> rows) const {
  const std::vector<int32_t> positions = PositionsOf(rows);
  const Activations h(memory(), DType::kF32, static_cast<int64_t>(rows.size()), config_.hidden);
  ops_->Embed(weights_.embedding, IdsOf(rows), h);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    const Qkv fresh = ProjectRows(layer, h, /*by_row=*/true);
    ops_->Rotate(fresh.q, positions, rope_);
    const Activations attention = MakeRows(h->rows, fresh.q->cols);
    for (int64_t r = 0; r < h->rows; ++r) {
      const LayerKv in_layer = rows[r].kv->Layer(layer);
      const auto position = absl::MakeConstSpan(positions).subspan(r, 1);
      ops_->RotateAndWriteKv(fresh.k->Slice(r, 1), fresh.v->Slice(r, 1), position, rope_, in_layer);
      ops_->Attend(fresh.q->Slice(r, 1), position, in_layer, attention->Slice(r, 1));
    }
    FinishRows(layer, attention, h, /*by_row=*/true);
  }
  StepLogits logits(memory(), h->rows, config_.vocab);
  logits.SetTemperatures(TemperaturesOf(rows));
  WriteLogits(h, /*by_row=*/true, logits.logits());
  logits.Summarize(*ops_);
  return logits;
}

}  // namespace tessera
