// The closed list of operations that a device offers to the model and to the blend. The CPU's file
// is their specification; another device must give the same within a stated tolerance.
#ifndef TESSERA_GPU_WORKER_DEVICE_OPS_H_
#define TESSERA_GPU_WORKER_DEVICE_OPS_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "gpu_worker/device/logits_summary.h"
#include "gpu_worker/device/memory.h"
#include "gpu_worker/device/tensor.h"

namespace tessera {

// cos and sin of every position's angles: [position][head_dim / 2], already times the attention
// factor of YaRN where the model has one.
struct RopeTable {
  int64_t half_dim = 0;
  std::vector<float> cos;
  std::vector<float> sin;
  // The same numbers in the memory of a device that has its own; put there when first used.
  mutable std::shared_ptr<const float> on_device;
};

// Whole numbers that an op reads, and where the device has them too, if it does: an op that finds
// them nowhere there brings them itself, each time. See Indices for numbers that are used often.
struct IndexView {
  IndexView(absl::Span<const int32_t> host, const int32_t* device = nullptr)  // NOLINT: a view
      : host(host), device(device) {}
  IndexView(const std::vector<int32_t>& host) : host(host) {}     // NOLINT: a view
  IndexView(std::initializer_list<int32_t> host) : host(host) {}  // NOLINT: a view

  int32_t operator[](size_t i) const { return host[i]; }
  size_t size() const { return host.size(); }
  bool empty() const { return host.empty(); }
  int32_t back() const { return host.back(); }
  IndexView subspan(size_t first, size_t count) const {
    return {host.subspan(first, count), device == nullptr ? nullptr : device + first};
  }
  IndexView last(size_t count) const { return subspan(size() - count, count); }

  absl::Span<const int32_t> host;
  const int32_t* device = nullptr;
};

// One layer of a request's KV memory, a slot for every position; K is rotated. Without `blocks` it
// is [kv_head][capacity][head_dim], slot p after slot p - 1. With them it is a part of a pool
// [kv_head][pool_slots][head_dim], in blocks of kBlockSlots: blocks[i] holds slots i * kBlockSlots
// ... Numbers are of the device's KvType.
struct LayerKv {
  static constexpr int64_t kBlockSlots = 64;

  void* k = nullptr;
  void* v = nullptr;
  int64_t capacity = 0;  // slots
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  const int32_t* blocks = nullptr;  // [ceil(capacity / kBlockSlots)]
  int64_t pool_slots = 0;
  const int32_t* device_blocks = nullptr;  // `blocks`, in a device's own memory

  // f32 on the CPU.
  float* K(int64_t head, int64_t slot) const {
    return static_cast<float*>(k) + Row(head, slot) * head_dim;
  }
  float* V(int64_t head, int64_t slot) const {
    return static_cast<float*>(v) + Row(head, slot) * head_dim;
  }

  // Of the slots from `slot` on, at most `most`: how many stand one after the other in memory.
  int64_t Run(int64_t slot, int64_t most) const {
    if (blocks == nullptr) return most;
    int64_t block = slot / kBlockSlots;
    int64_t run = (block + 1) * kBlockSlots - slot;
    for (; run < most && blocks[block + 1] == blocks[block] + 1; ++block) run += kBlockSlots;
    return run < most ? run : most;
  }

 private:
  int64_t Row(int64_t head, int64_t slot) const {
    if (blocks == nullptr) return head * capacity + slot;
    return head * pool_slots + blocks[slot / kBlockSlots] * kBlockSlots + slot % kBlockSlots;
  }
};

// The KV memory of many requests in one pool: request r's blocks are tables[r * width] ...
struct TablesView {
  IndexView tables;
  int64_t width = 0;

  // Request r's memory in a layer of the pool, on the CPU.
  LayerKv Of(int64_t r, LayerKv pool) const {
    pool.blocks = tables.host.data() + r * width;
    pool.capacity = width * LayerKv::kBlockSlots;
    return pool;
  }
};

// How much KV a model has for a position.
struct KvShape {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
};

// One layer of one piece as the cache holds it: K before RoPE, then V, each
// [token][kv_head][head_dim].
struct SliceView {
  const Bf16* k = nullptr;
  const Bf16* v = nullptr;
  int64_t tokens = 0;
};

// A slice and the position (or row) that its first token has.
struct PlacedSlice {
  SliceView slice;
  int64_t first = 0;
};

// One layer of one chunk for a correction (see Ops::Correct).
struct CorrectionTask {
  std::vector<SliceView> pieces;    // the whole chunk, in order
  int64_t first_position = 0;       // of its first row in the prompt
  std::vector<int32_t> picked;      // recomputed rows, counted within the chunk, ascending
  std::vector<int32_t> fresh_rows;  // their rows in the fresh K and V
};

// Constants of the kernel ridge regression.
struct CorrectionConstants {
  float length = 64;   // tokens
  float nearness = 2;  // weight of the part that falls with distance
  float noise = 3;
  float bound = 2;  // longest deviation, over the chunk's median one
  int fewest = 4;   // picked rows below which a chunk stays as it is
  int most =
      2048;  // and above which: the work grows with their cube, and little is left to correct
};

// A chunk that is corrected in every layer: a CorrectionTask without what differs between layers.
struct CorrectedChunk {
  int64_t first_position = 0;
  std::vector<int32_t> picked;
  std::vector<int32_t> fresh_rows;
};

// One layer of all those chunks: the pieces of each.
using CorrectedSlices = std::vector<std::vector<SliceView>>;

// The corrections of one prompt, layer by layer; see Ops::Correct.
class Correction {
 public:
  virtual ~Correction() = default;
  // Of layers first_layer ..., each once. All that does not need the fresh rows may be computed
  // from here on, beside other work. Slices must stay until the last layer was applied.
  virtual void Prepare(int64_t first_layer, std::vector<CorrectedSlices> layers) = 0;
  // After Prepare of that layer.
  virtual void Apply(int64_t layer, Matrix fresh_k, Matrix fresh_v, const LayerKv& kv) = 0;
};

// The product of some rows with a weight, or with weights that lie side by side (see MatMulMany).
struct ProductShape {
  int64_t inner = 0;  // columns of x
  int64_t cols = 0;   // of out
  DType out = DType::kF32;
  bool accumulate = false;
  bool bias = false;
  int64_t most_rows = 0;  // that it will be made of
};

// What Repeat has learned of some work; belongs to one device, and ends before it.
class Recording {
 public:
  virtual ~Recording() = default;
};

// All matrices, weights and spans of numbers are in this device's memory. Not thread-safe: one
// thread issues the work, the device spreads it over its cores. The same calls with the same shapes
// give the same bits, whatever the number of threads. Shapes that do not fit are a bug of the
// caller (CHECK).
class Ops {
 public:
  virtual ~Ops() = default;

  // "cpu-f32", "cpu-bf16", ...: the device and the type its products are made in.
  virtual std::string name() const = 0;

  virtual DeviceMemory& memory() = 0;

  // Makes ready for a model's products, once, at a start. A device that finds out by measuring how
  // to make them does so here and never later, takes memory meanwhile, and keeps what it found in
  // `folder` (empty: nowhere) for the next start. Products that were not named work too. Other
  // devices have nothing to make ready.
  virtual void Prepare(absl::Span<const ProductShape> products, const std::string& folder) {}

  // Runs `work`, which issues the same ops on the same memory each time, and waits for nothing: a
  // device may replay what it recorded the first time instead.
  virtual void Repeat(std::unique_ptr<Recording>* recording, absl::FunctionRef<void()> work) {
    work();
  }

  // out[i] = table[ids[i]].
  virtual void Embed(const Weight& table, IndexView ids, Matrix out) = 0;

  // out = x / sqrt(mean(x^2) + eps) * gain, for each run of gain.size() numbers; out may be x.
  virtual void RmsNorm(Matrix x, absl::Span<const float> gain, float eps, Matrix out) = 0;

  // out (+)= x w^T + bias. bias: empty or w.rows numbers.
  virtual void MatMul(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                      Matrix out) = 0;

  // MatMul in which a row of out depends on its row of x alone: it has the same bits whatever other
  // rows there are. For the rows of many requests, a few dozen at a time.
  virtual void MatMulByRow(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                           Matrix out) = 0;

  // The products of one x with several weights; `by_row` as in MatMulByRow. One product where
  // weights and results lie side by side.
  virtual void MatMulMany(Matrix x, absl::Span<const Weight> w,
                          absl::Span<const absl::Span<const float>> bias, bool by_row,
                          absl::Span<const Matrix> out) {
    for (size_t i = 0; i < w.size(); ++i) {
      const absl::Span<const float> b = bias.empty() ? absl::Span<const float>() : bias[i];
      if (by_row) {
        MatMulByRow(x, w[i], b, /*accumulate=*/false, out[i]);
      } else {
        MatMul(x, w[i], b, /*accumulate=*/false, out[i]);
      }
    }
  }

  // Rotates row i, seen as heads of head_dim, to positions[i]; pairs are (j, j + head_dim / 2).
  virtual void Rotate(Matrix x, IndexView positions, const RopeTable& rope) = 0;

  // Rotates row i of k [n][kv_heads * head_dim] to positions[i] and writes it and row i of v to
  // that slot; what k holds afterwards is not said.
  virtual void RotateAndWriteKv(Matrix k, Matrix v, IndexView positions, const RopeTable& rope,
                                const LayerKv& kv) = 0;

  // That, and Rotate of q, whose rows are at the same positions.
  virtual void RotateAndWrite(Matrix q, Matrix k, Matrix v, IndexView positions,
                              const RopeTable& rope, const LayerKv& kv) {
    Rotate(q, positions, rope);
    RotateAndWriteKv(k, v, positions, rope, kv);
  }

  // The same where row i belongs to request i; pool: a layer of all their memory.
  virtual void RotateAndWriteRows(Matrix q, Matrix k, Matrix v, IndexView positions,
                                  const RopeTable& rope, const TablesView& tables,
                                  const LayerKv& pool) {
    Rotate(q, positions, rope);
    for (int64_t r = 0; r < k.rows; ++r) {
      RotateAndWriteKv(k.Slice(r, 1), v.Slice(r, 1), positions.subspan(r, 1), rope,
                       tables.Of(r, pool));
    }
  }

  // Places a cached slice at first_position...: rotates its K once, from the raw form.
  virtual void PlaceSlice(const SliceView& slice, int64_t first_position, const RopeTable& rope,
                          const LayerKv& kv) = 0;
  virtual void PlaceSlices(absl::Span<const PlacedSlice> slices, const RopeTable& rope,
                           const LayerKv& kv) {
    for (const auto& [slice, first] : slices) PlaceSlice(slice, first, rope, kv);
  }

  // out = softmax(q k^T / sqrt(head_dim)) v. Row i of q (rotated, [n][heads * head_dim]) sees
  // exactly the slots 0..positions[i]; positions ascend.
  virtual void Attend(Matrix q, IndexView positions, const LayerKv& kv, Matrix out) = 0;

  // Attend where row i belongs to request i. A row has the same bits whatever other rows there are.
  virtual void AttendRows(Matrix q, IndexView positions, const TablesView& tables,
                          const LayerKv& pool, Matrix out) {
    for (int64_t r = 0; r < q.rows; ++r) {
      Attend(q.Slice(r, 1), positions.subspan(r, 1), tables.Of(r, pool), out.Slice(r, 1));
    }
  }

  // Attend, and the attention that each slot got: scores[slot] += its mean probability over rows
  // and heads; or, `by_value_norm`, the sum over heads of the root mean square of its probability
  // over rows times the norm of its V in that head. scores.size() is the number of slots, at least
  // positions.back() + 1.
  virtual void AttendScored(Matrix q, IndexView positions, const LayerKv& kv, bool by_value_norm,
                            Matrix out, absl::Span<float> scores) = 0;

  // gate = silu(gate) * up.
  virtual void SwiGlu(Matrix gate, Matrix up) = 0;

  // out[i] = x[rows[i]].
  virtual void GatherRows(Matrix x, IndexView rows, Matrix out) = 0;

  // deviation[i] = |fresh[i] - cached[i]|^2 over the i-th token's heads (CacheBlend, eq. 2 in
  // spirit); cached: [tokens][kv_heads * head_dim].
  virtual void Deviation(Matrix fresh, const Bf16* cached, absl::Span<float> deviation) = 0;
  // Of the rows behind each slice's first, against its K or, of_v, V.
  virtual void Deviations(Matrix fresh, absl::Span<const PlacedSlice> slices, bool of_v,
                          absl::Span<float> deviation) {
    for (const auto& [slice, first] : slices) {
      Deviation(fresh.Slice(first, slice.tokens), of_v ? slice.v : slice.k,
                deviation.subspan(first, slice.tokens));
    }
  }

  // Kernel ridge regression: the deviation (fresh minus cached) of each chunk's picked rows is
  // carried to all its rows in the KV memory:
  //   kernel(a, b) = <f_a, f_b> / s + nearness exp(-|a - b| / length) + 1
  //   row += kernel(row, picked) (kernel(picked, picked) + noise I)^-1 deviation(picked)
  // f_a: cached K (before RoPE) and V of row a, each over the mean norm of all rows, joined, minus
  // the mean of the picked rows; s: the mean |f|^2 of the picked rows. fresh_k is before RoPE.
  // A deviation is an outlier now and then (a row that drew all attention alone and no longer
  // does), so it is shortened to a norm of at most `bound` times the picked rows' median norm, that
  // is the
  // ((picked - 1) / 2)-th smallest; norms are of K and V joined, each over the mean norm as in f.
  // Picked rows are moved too; the caller overwrites them.
  virtual void Correct(absl::Span<const CorrectionTask> tasks, Matrix fresh_k, Matrix fresh_v,
                       const CorrectionConstants& constants, const RopeTable& rope,
                       const LayerKv& kv) = 0;

  // Correct for all layers of a prompt. chunks and rope must outlive it.
  virtual std::unique_ptr<Correction> MakeCorrection(absl::Span<const CorrectedChunk> chunks,
                                                     const CorrectionConstants& constants,
                                                     const KvShape& shape, const RopeTable& rope);

  // Rounds K (before RoPE) and V to the cache's bf16 and writes them as a slice's bytes; the
  // matrices keep the rounded values, so that what is attended to now is what will be read from the
  // cache later.
  virtual void RoundToSlice(Matrix k, Matrix v, Bf16* slice_k, Bf16* slice_v) = 0;

  // out.Of(r): the summary of row r of logits, with masses at temperatures[r], which is above 0. A
  // row's are the same bits whatever other rows there are.
  virtual void SummarizeLogits(Matrix logits, const float* temperatures,
                               const LogitsSummaries& out) = 0;
};

// CPU ops over `threads` threads (0: one per core).
std::unique_ptr<Ops> MakeCpuOps(int threads);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_OPS_H_
