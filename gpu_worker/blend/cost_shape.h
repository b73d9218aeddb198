// What the cost of a prefill depends on: the device's coefficients and the prompt's shape; and how
// much work a shape is.
#ifndef TESSERA_GPU_WORKER_BLEND_COST_SHAPE_H_
#define TESSERA_GPU_WORKER_BLEND_COST_SHAPE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tessera {

// What a device takes for the parts of a prefill, seconds, through all layers.
struct CostCoefficients {
  double pass = 0;         // a pass through the layers, however few rows it has
  double row = 0;          // each of its rows: products with weights
  double pair = 0;         // a row and a key that it attends to
  double scored_pair = 0;  // the same where the attention is added up by key (the query pass)
  double placed_row = 0;   // a cached row, rotated to its position
  double correction = 0;   // a multiply-add of Ops::Correct (CorrectionWork)
  double logits = 0;       // of one row
  int64_t layers = 1;
  int64_t kv_width = 0;     // numbers in one row's K and V of one layer
  int64_t row_block = 512;  // rows of one pass of a full prefill
};

// How a prefill comes by its KV. The three blends differ in what they wait for.
enum class PrefillKind { kFull, kQuery, kDeviation, kStatic };
constexpr size_t kPrefillKinds = 4;
// "full", "query", "hkvd", "static".
const char* PrefillKindName(PrefillKind kind);

struct ChunkShape {
  int64_t tokens = 0;
  int64_t cached = 0;    // the first so many are at hand
  int64_t resident = 0;  // and of these, the first so many need no fetch
  bool exact = false;    // no row of it is recomputed
};

struct PromptShape {
  std::vector<ChunkShape> chunks;  // the lead first
  int64_t suffix = 0;              // tokens that are always computed
  // Of its longest exact prefix, which only a full prefill uses; and how much needs no fetch.
  int64_t prefix = 0;
  int64_t resident_prefix = 0;
  // The blend that would run.
  PrefillKind kind = PrefillKind::kQuery;
  double ratio = 0.15;     // of the rows that are not exact, recomputed
  int64_t first_rows = 0;  // of every chunk, recomputed beside these
  bool correction = false;
  int64_t check_layer = 1;  // kDeviation
  bool layerwise = true;    // layers are used as they arrive
  bool store = true;        // what is computed is stored
  int64_t bytes_per_token = 0;
  int64_t tokens_per_piece = 256;

  int64_t tokens() const;
  int64_t fetched_bytes() const;  // of all chunks
};

// The parts of a blend, seconds by the coefficients alone.
struct BlendParts {
  double missing = 0;  // prefills of the chunks' rest, each alone
  double before = 0;   // what needs only one layer after the other: placing, the query pass
  double after = 0;    // what follows: recompute, correction, logits
};

// Ordinary prefill behind `prefix` tokens whose KV is placed first.
double FullPrefillSeconds(const CostCoefficients& device, int64_t tokens, int64_t prefix);
// Prefill of a chunk's tokens from `cached` on, alone, a piece at a time.
double ChunkPrefillSeconds(const CostCoefficients& device, int64_t tokens, int64_t cached,
                           int64_t tokens_per_piece);
BlendParts BlendPartsOf(const CostCoefficients& device, const PromptShape& shape);

// Multiply-adds of one layer's correction of a chunk: kernels of the picked rows among themselves
// and with all rows, the factorization, the solve, and what it gives.
double CorrectionWork(double tokens, double picked, int64_t kv_width);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_COST_SHAPE_H_
