#include "gpu_worker/model/decoder.h"

#include <algorithm>
#include <cstring>
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
  return std::unique_ptr<Decoder>(new Decoder(std::move(config), std::move(weights), max_len, ops));
}

Decoder::Decoder(ModelConfig config, Weights weights, int64_t max_len, Ops* ops)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      max_len_(max_len),
      rope_(MakeRopeTable(config_.rope, config_.head_dim, max_len)),
      ops_(ops) {}

Activations Decoder::Embed(absl::Span<const uint32_t> ids) const {
  Activations h(static_cast<int64_t>(ids.size()), config_.hidden);
  ops_->Embed(weights_.embedding, ids, h);
  return h;
}

void Decoder::MatMul(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                     bool by_row, Matrix out) const {
  if (by_row) {
    ops_->MatMulByRow(x, w, bias, accumulate, out);
  } else {
    ops_->MatMul(x, w, bias, accumulate, out);
  }
}

Qkv Decoder::ProjectRows(int64_t layer, Matrix h, bool by_row) const {
  const LayerWeights& w = weights_.layers[layer];
  Activations x(h.rows, h.cols);
  ops_->RmsNorm(h, w.input_norm, config_.rms_eps, x);
  Qkv fresh{Activations(h.rows, w.q.rows), Activations(h.rows, w.k.rows),
            Activations(h.rows, w.v.rows)};
  MatMul(x, w.q, w.q_bias, /*accumulate=*/false, by_row, fresh.q);
  MatMul(x, w.k, w.k_bias, /*accumulate=*/false, by_row, fresh.k);
  MatMul(x, w.v, w.v_bias, /*accumulate=*/false, by_row, fresh.v);
  if (!w.q_norm.empty()) ops_->RmsNorm(fresh.q, w.q_norm, config_.rms_eps, fresh.q);
  if (!w.k_norm.empty()) ops_->RmsNorm(fresh.k, w.k_norm, config_.rms_eps, fresh.k);
  return fresh;
}

Qkv Decoder::ProjectQkv(int64_t layer, Matrix h) const {
  return ProjectRows(layer, h, /*by_row=*/false);
}

void Decoder::FinishRows(int64_t layer, Matrix attention, Matrix h, bool by_row) const {
  const LayerWeights& w = weights_.layers[layer];
  MatMul(attention, w.o, {}, /*accumulate=*/true, by_row, h);
  for (int64_t first = 0; first < h.rows; first += kRowBlock) {
    const Matrix rows = h.Slice(first, std::min(kRowBlock, h.rows - first));
    Activations x(rows.rows, rows.cols);
    Activations gate(rows.rows, config_.intermediate), up(rows.rows, config_.intermediate);
    ops_->RmsNorm(rows, w.post_attention_norm, config_.rms_eps, x);
    MatMul(x, w.gate, {}, /*accumulate=*/false, by_row, gate);
    MatMul(x, w.up, {}, /*accumulate=*/false, by_row, up);
    // A width that is no multiple of the vectors' would mix rows.
    for (int64_t r = 0; by_row && r < rows.rows; ++r) {
      ops_->SwiGlu(gate->Slice(r, 1), up->Slice(r, 1));
    }
    if (!by_row) ops_->SwiGlu(gate, up);
    MatMul(gate, w.down, {}, /*accumulate=*/true, by_row, rows);
  }
}

void Decoder::FinishLayer(int64_t layer, Matrix attention, Matrix h) const {
  FinishRows(layer, attention, h, /*by_row=*/false);
}

void Decoder::AttendAndFinish(int64_t layer, Qkv& fresh, absl::Span<const int32_t> kv_positions,
                              absl::Span<const int32_t> positions, const KvMemory& kv,
                              Matrix h) const {
  const LayerKv memory = kv.Layer(layer);
  ops_->Rotate(fresh.k, kv_positions, rope_);
  ops_->WriteKv(fresh.k, fresh.v, kv_positions, memory);
  ops_->Rotate(fresh.q, positions, rope_);
  Activations attention(h.rows, fresh.q->cols);
  ops_->Attend(fresh.q, positions, memory, attention);
  FinishLayer(layer, attention, h);
}

void Decoder::RunLayer(int64_t layer, absl::Span<const int32_t> positions, const KvMemory& kv,
                       Matrix h, int64_t needed) const {
  Qkv fresh = ProjectQkv(layer, h);
  const int64_t skipped = h.rows - needed;
  if (skipped > 0) fresh.q.KeepLastRows(needed);
  AttendAndFinish(layer, fresh, positions, positions.subspan(skipped), kv,
                  h.Slice(skipped, needed));
}

Activations Decoder::LogitsOf(Matrix h, bool by_row) const {
  Activations x(h.rows, h.cols), logits(h.rows, config_.vocab);
  ops_->RmsNorm(h, weights_.final_norm, config_.rms_eps, x);
  MatMul(x, weights_.head, {}, /*accumulate=*/false, by_row, logits);
  return logits;
}

Activations Decoder::Logits(Matrix h) const { return LogitsOf(h, /*by_row=*/false); }

Activations Decoder::LastRow(Matrix h) const {
  Activations last(1, config_.hidden);
  std::memcpy(last->data, h.Row(h.rows - 1), config_.hidden * sizeof(float));
  return last;
}

Steps<absl::StatusOr<Activations>> Decoder::Extending(const KvMemory& kv,
                                                      absl::Span<const uint32_t> ids, int64_t first,
                                                      OnRows on_rows) const {
  CHECK(!ids.empty());
  CHECK_LE(first + static_cast<int64_t>(ids.size()), kv.capacity());
  Activations h;
  for (size_t done = 0; done < ids.size(); done += kRowBlock) {
    const absl::Span<const uint32_t> block = ids.subspan(done, kRowBlock);
    const auto at = first + static_cast<int64_t>(done);
    const std::vector<int32_t> positions = PositionsFrom(at, block.size());
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

Activations Decoder::DecodeRows(absl::Span<const DecodeRow> rows) const {
  std::vector<uint32_t> ids;
  std::vector<int32_t> positions;
  for (const DecodeRow& row : rows) {
    CHECK_LT(row.position, row.kv->capacity());
    ids.push_back(row.id);
    positions.push_back(static_cast<int32_t>(row.position));
  }
  const Activations h = Embed(ids);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    Qkv fresh = ProjectRows(layer, h, /*by_row=*/true);
    ops_->Rotate(fresh.k, positions, rope_);
    ops_->Rotate(fresh.q, positions, rope_);
    const Activations attention(h->rows, fresh.q->cols);
    for (int64_t r = 0; r < h->rows; ++r) {
      const LayerKv memory = rows[r].kv->Layer(layer);
      const auto position = absl::MakeConstSpan(positions).subspan(r, 1);
      ops_->WriteKv(fresh.k->Slice(r, 1), fresh.v->Slice(r, 1), position, memory);
      ops_->Attend(fresh.q->Slice(r, 1), position, memory, attention->Slice(r, 1));
    }
    FinishRows(layer, attention, h, /*by_row=*/true);
  }
  std::vector<int32_t> wanted;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].wants_logits) wanted.push_back(static_cast<int32_t>(r));
  }
  if (wanted.size() == rows.size()) return LogitsOf(h, /*by_row=*/true);
  const Activations shown(static_cast<int64_t>(wanted.size()), h->cols);
  ops_->GatherRows(h, wanted, shown);
  return LogitsOf(shown, /*by_row=*/true);
}

}  // namespace tessera
