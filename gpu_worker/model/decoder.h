// A decoder-only transformer (RMSNorm, GQA, half-split RoPE, SwiGLU; QKV bias and QK norm where the
// weights have them) in the parts that a blend needs. It knows no chunks.
#ifndef TESSERA_GPU_WORKER_MODEL_DECODER_H_
#define TESSERA_GPU_WORKER_MODEL_DECODER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/steps.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/activations.h"
#include "gpu_worker/model/config.h"
#include "gpu_worker/model/kv_memory.h"
#include "gpu_worker/model/rope_table.h"
#include "gpu_worker/model/step_logits.h"
#include "gpu_worker/model/weights.h"

namespace tessera {

// Q, K and V of some rows, before RoPE.
struct Qkv {
  Activations q;  // [rows][heads * head_dim]
  Activations k;  // [rows][kv_heads * head_dim]
  Activations v;
};

// The next row of a request: token `id` at `position`, behind what `kv` holds.
struct DecodeRow {
  const KvMemory* kv = nullptr;
  uint32_t id = 0;
  int64_t position = 0;
  bool wants_logits = true;
  float temperature = 0;  // of who samples from it
};

// Not thread-safe: it issues work to `ops`, which must outlive it.
class Decoder {
 public:
  // max_len: longest prompt plus answer, tokens; 0: as long as the model allows. Errors: those of
  // ReadModelConfig and LoadWeights, and INVALID_ARGUMENT when max_len is longer than the model
  // allows.
  static absl::StatusOr<std::unique_ptr<Decoder>> Load(const std::string& folder, int64_t max_len,
                                                       Ops* ops);

  // Of weights from anywhere, in the program's memory, with the shapes that the config says.
  static std::unique_ptr<Decoder> Make(ModelConfig config, Weights weights, int64_t max_len,
                                       Ops* ops);
  ~Decoder();

  // Makes the device ready for this model's products: see Ops::Prepare.
  void Prepare(const std::string& folder) const;

  const ModelConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  const RopeTable& rope() const { return rope_; }
  int64_t max_len() const { return max_len_; }
  Ops& ops() const { return *ops_; }

  DeviceMemory& memory() const { return ops_->memory(); }
  // Memory for one request's KV of so many positions.
  KvMemory MakeKv(int64_t capacity) const { return KvMemory(config_, capacity, memory()); }
  KvShape kv_shape() const { return {config_.layers, config_.kv_heads, config_.head_dim}; }
  int64_t KvBytesPerToken() const { return KvMemory::BytesPerToken(config_, memory().kv_type()); }
  // Rows of the device's activation type.
  Activations MakeRows(int64_t rows, int64_t cols) const {
    return Activations(memory(), memory().activation_type(), rows, cols);
  }

  // [ids][hidden].
  Activations Embed(absl::Span<const uint32_t> ids) const;

  // Fresh Q, K, V of layer `layer` for rows h [rows][hidden].
  Qkv ProjectQkv(int64_t layer, Matrix h) const;

  // Output projection, residual and MLP of a layer, in place on h; attention [rows][heads *
  // head_dim].
  void FinishLayer(int64_t layer, Matrix attention, Matrix h) const;

  // The plain transformer layer for rows h at ascending `positions`: rotates and writes fresh K and
  // V, attends from each row to all slots up to its own, finishes the layer. Only the last `needed`
  // rows of h are carried on (the last layer needs one); the others only leave their K and V.
  void RunLayer(int64_t layer, IndexView positions, const KvMemory& kv, Matrix h,
                int64_t needed) const;

  // The second half of RunLayer, for fresh Q, K and V that the caller has looked at or thinned out:
  // fresh.k and fresh.v belong to kv_positions, fresh.q and h to positions.
  void AttendAndFinish(int64_t layer, Qkv& fresh, IndexView kv_positions, IndexView positions,
                       const KvMemory& kv, Matrix h) const;

  // Logits [rows][vocab] of rows h, in the program's own memory.
  Activations Logits(Matrix h) const;

  // Shown the hidden rows after the last layer of positions first .. first + h.rows; an error ends
  // the run.
  using OnRows = std::function<absl::Status(int64_t first, Matrix h)>;

  // Ordinary prefill: runs ids at positions first .. over what kv holds for the positions before,
  // the device's row_block at a time; a layer of such a block is a step. Gives the last hidden row
  // [1][hidden]. With `on_rows`, every row is carried through the last layer and shown, in order,
  // at most so many at a time. kv and ids must outlive it. Errors: those of `on_rows`.
  Steps<absl::StatusOr<Activations>> Extending(const KvMemory& kv, absl::Span<const uint32_t> ids,
                                               int64_t first, OnRows on_rows = nullptr) const;

  // The same at once. CANCELLED when *cancelled turns true.
  absl::StatusOr<Activations> Extend(const KvMemory& kv, absl::Span<const uint32_t> ids,
                                     int64_t first, const std::atomic<bool>& cancelled,
                                     OnRows on_rows = nullptr) const;

  // One decode step of many requests: writes each row's K and V to its memory and gives the logits
  // of the rows that want them, which stay where they are. A row's are the same bits whatever other
  // rows there are.
  // Several rows of one memory must stand in the order of their positions.
  DecodedLogits DecodeToSample(absl::Span<const DecodeRow> rows) const;

  // The same; gives all logits [rows that want them][vocab], in the program's own memory.
  Activations DecodeRows(absl::Span<const DecodeRow> rows) const;

 private:
  Decoder(ModelConfig config, Weights weights, int64_t max_len, Ops* ops);

  Activations LastRow(Matrix h) const;
  Activations ToHost(Activations x) const;

  // A layer's products, of rows of one request or, `by_row`, of many.
  Qkv ProjectRows(int64_t layer, Matrix h, bool by_row) const;
  void FinishRows(int64_t layer, Matrix attention, Matrix h, bool by_row) const;
  void WriteLogits(Matrix h, bool by_row, Matrix logits) const;
  void MatMul(Matrix x, const Weight& w, bool accumulate, bool by_row, Matrix out) const;
  StepLogits Decode(absl::Span<const DecodeRow> rows) const;
  // Of rows whose memory is in one pool; and of any, one after the other.
  StepLogits DecodePooled(absl::Span<const DecodeRow> rows, const KvPool& pool) const;
  StepLogits DecodeSingly(absl::Span<const DecodeRow> rows) const;

  const ModelConfig config_;
  const Weights weights_;
  const int64_t max_len_;
  const RopeTable rope_;
  Ops* const ops_;
  // By the number of rows and the length of their tables.
  struct PooledStep;
  mutable std::map<std::pair<size_t, size_t>, std::unique_ptr<PooledStep>> pooled_steps_;
};

// 0, 1, ... as positions: first .. first + count.
std::vector<int32_t> PositionsFrom(int64_t first, int64_t count);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_DECODER_H_
