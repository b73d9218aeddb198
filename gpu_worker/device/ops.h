// The closed list of operations that a device offers to the model and to the blend. The CPU's file
// is their specification; another device must give the same within a stated tolerance.
#ifndef TESSERA_GPU_WORKER_DEVICE_OPS_H_
#define TESSERA_GPU_WORKER_DEVICE_OPS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "gpu_worker/device/tensor.h"

namespace tessera {

// cos and sin of every position's angles: [position][head_dim / 2], already times the attention
// factor of YaRN where the model has one.
struct RopeTable {
  int64_t half_dim = 0;
  std::vector<float> cos;
  std::vector<float> sin;
};

// One layer of a request's KV memory, a slot for every position; K is rotated. Without `blocks` it
// is [kv_head][capacity][head_dim], slot p after slot p - 1. With them it is a part of a pool
// [kv_head][pool_slots][head_dim], in blocks of kBlockSlots: blocks[i] holds slots i * kBlockSlots
// ...
struct LayerKv {
  static constexpr int64_t kBlockSlots = 64;

  float* k = nullptr;
  float* v = nullptr;
  int64_t capacity = 0;  // slots
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  const int32_t* blocks = nullptr;  // [ceil(capacity / kBlockSlots)]
  int64_t pool_slots = 0;

  float* K(int64_t head, int64_t slot) const { return k + Row(head, slot) * head_dim; }
  float* V(int64_t head, int64_t slot) const { return v + Row(head, slot) * head_dim; }

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

// One layer of one piece as the cache holds it: K before RoPE, then V, each
// [token][kv_head][head_dim].
struct SliceView {
  const Bf16* k = nullptr;
  const Bf16* v = nullptr;
  int64_t tokens = 0;
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

// All matrices are in this device's memory. Not thread-safe: one thread issues the work, the device
// spreads it over its cores. The same calls with the same shapes give the same bits, whatever the
// number of threads. Shapes that do not fit are a bug of the caller (CHECK).
class Ops {
 public:
  virtual ~Ops() = default;

  // "cpu-f32", "cpu-bf16", ...: the device and the type its products are made in.
  virtual std::string name() const = 0;

  // out[i] = table[ids[i]].
  virtual void Embed(const Weight& table, absl::Span<const uint32_t> ids, Matrix out) = 0;

  // out = x / sqrt(mean(x^2) + eps) * gain, for each run of gain.size() numbers; out may be x.
  virtual void RmsNorm(Matrix x, absl::Span<const float> gain, float eps, Matrix out) = 0;

  // out (+)= x w^T + bias. bias: empty or w.rows numbers.
  virtual void MatMul(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                      Matrix out) = 0;

  // MatMul in which a row of out depends on its row of x alone: it has the same bits whatever other
  // rows there are. For the rows of many requests, a few dozen at a time.
  virtual void MatMulByRow(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                           Matrix out) = 0;

  // Rotates row i, seen as heads of head_dim, to positions[i]; pairs are (j, j + head_dim / 2).
  virtual void Rotate(Matrix x, absl::Span<const int32_t> positions, const RopeTable& rope) = 0;

  // Writes row i of k (rotated) and v [n][kv_heads * head_dim] to slot positions[i].
  virtual void WriteKv(Matrix k, Matrix v, absl::Span<const int32_t> positions,
                       const LayerKv& kv) = 0;

  // Places a cached slice at first_position...: rotates its K once, from the raw form.
  virtual void PlaceSlice(const SliceView& slice, int64_t first_position, const RopeTable& rope,
                          const LayerKv& kv) = 0;

  // out = softmax(q k^T / sqrt(head_dim)) v. Row i of q (rotated, [n][heads * head_dim]) sees
  // exactly the slots 0..positions[i]; positions ascend.
  virtual void Attend(Matrix q, absl::Span<const int32_t> positions, const LayerKv& kv,
                      Matrix out) = 0;

  // Attend, and the attention that each slot got: scores[slot] += its mean probability over rows
  // and heads; or, `by_value_norm`, the sum over heads of the root mean square of its probability
  // over rows times the norm of its V in that head. scores.size() is the number of slots, at least
  // positions.back() + 1.
  virtual void AttendScored(Matrix q, absl::Span<const int32_t> positions, const LayerKv& kv,
                            bool by_value_norm, Matrix out, absl::Span<float> scores) = 0;

  // gate = silu(gate) * up.
  virtual void SwiGlu(Matrix gate, Matrix up) = 0;

  // out[i] = x[rows[i]].
  virtual void GatherRows(Matrix x, absl::Span<const int32_t> rows, Matrix out) = 0;

  // deviation[i] = |fresh[i] - cached[i]|^2 over the i-th token's heads (CacheBlend, eq. 2 in
  // spirit); cached: [tokens][kv_heads * head_dim].
  virtual void Deviation(Matrix fresh, const Bf16* cached, absl::Span<float> deviation) = 0;

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

  // Rounds K (before RoPE) and V to the cache's bf16 and writes them as a slice's bytes; the
  // matrices keep the rounded values, so that what is attended to now is what will be read from the
  // cache later.
  virtual void RoundToSlice(Matrix k, Matrix v, Bf16* slice_k, Bf16* slice_v) = 0;
};

// CPU ops over `threads` threads (0: one per core).
std::unique_ptr<Ops> MakeCpuOps(int threads);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_OPS_H_
