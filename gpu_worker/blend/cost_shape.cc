#include "gpu_worker/blend/cost_shape.h"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

// As CorrectionConstants: chunks with fewer or more picked rows are not corrected.
constexpr double kFewestPicked = 4, kMostPicked = 2048;

double Half(double x) { return x / 2; }

// Pairs of a query row and a key, of rows first .. last - 1 that see all up to themselves.
double Pairs(double first, double last) { return Half(last * last - first * first); }

double Passes(int64_t rows, int64_t block) {
  return static_cast<double>((rows + block - 1) / block);
}

double PickedOf(const PromptShape& shape, const ChunkShape& chunk) {
  if (chunk.exact) return 0;
  const auto tokens = static_cast<double>(chunk.tokens);
  return std::min(tokens, shape.ratio * tokens + static_cast<double>(shape.first_rows));
}

double CorrectionSeconds(const CostCoefficients& device, const PromptShape& shape) {
  if (!shape.correction) return 0;
  double work = 0;
  for (const ChunkShape& chunk : shape.chunks) {
    const double picked = PickedOf(shape, chunk);
    if (picked < kFewestPicked || picked > kMostPicked) continue;
    if (picked >= static_cast<double>(chunk.tokens)) continue;
    work += CorrectionWork(static_cast<double>(chunk.tokens), picked, device.kv_width);
  }
  return work * device.correction * static_cast<double>(device.layers - 1);
}

// The chosen rows and the suffix through all layers.
double RecomputeSeconds(const CostCoefficients& device, const PromptShape& shape) {
  double rows = 0, pairs = 0;
  int64_t start = 0;
  for (const ChunkShape& chunk : shape.chunks) {
    const double picked = PickedOf(shape, chunk);
    rows += picked;
    pairs += picked * (static_cast<double>(start) + Half(static_cast<double>(chunk.tokens)));
    start += chunk.tokens;
  }
  rows += static_cast<double>(shape.suffix);
  pairs += Pairs(static_cast<double>(start), static_cast<double>(start + shape.suffix));
  return device.pass + rows * device.row + pairs * device.pair;
}

}  // namespace

const char* PrefillKindName(PrefillKind kind) {
  switch (kind) {
    case PrefillKind::kFull:
      return "full";
    case PrefillKind::kQuery:
      return "query";
    case PrefillKind::kDeviation:
      return "hkvd";
    case PrefillKind::kStatic:
      return "static";
  }
  return "";
}

int64_t PromptShape::tokens() const {
  int64_t sum = suffix;
  for (const ChunkShape& chunk : chunks) sum += chunk.tokens;
  return sum;
}

int64_t PromptShape::fetched_bytes() const {
  int64_t sum = 0;
  for (const ChunkShape& chunk : chunks)
    sum += chunk.cached - std::min(chunk.resident, chunk.cached);
  return sum * bytes_per_token;
}

double CorrectionWork(double tokens, double picked, int64_t kv_width) {
  const auto width = static_cast<double>(kv_width);
  return 2 * picked * picked * width + picked * picked * picked / 3 + 2 * tokens * picked * width;
}

double FullPrefillSeconds(const CostCoefficients& device, int64_t tokens, int64_t prefix) {
  const int64_t rows = tokens - prefix;
  return static_cast<double>(prefix) * device.placed_row +
         Passes(rows, device.row_block) * device.pass + static_cast<double>(rows) * device.row +
         Pairs(static_cast<double>(prefix), static_cast<double>(tokens)) * device.pair +
         device.logits;
}

double ChunkPrefillSeconds(const CostCoefficients& device, int64_t tokens, int64_t cached,
                           int64_t tokens_per_piece) {
  const int64_t rows = tokens - cached;
  return static_cast<double>(cached) * device.placed_row +
         Passes(rows, tokens_per_piece) * device.pass + static_cast<double>(rows) * device.row +
         Pairs(static_cast<double>(cached), static_cast<double>(tokens)) * device.pair;
}

BlendParts BlendPartsOf(const CostCoefficients& device, const PromptShape& shape) {
  BlendParts parts;
  const auto tokens = static_cast<double>(shape.tokens());
  const auto suffix = static_cast<double>(shape.suffix);
  for (const ChunkShape& chunk : shape.chunks) {
    if (chunk.cached == chunk.tokens) continue;
    parts.missing +=
        ChunkPrefillSeconds(device, chunk.tokens, chunk.cached, shape.tokens_per_piece);
  }
  parts.before = (tokens - suffix) * device.placed_row;
  double recompute = RecomputeSeconds(device, shape);
  if (shape.kind == PrefillKind::kQuery) {
    parts.before +=
        device.pass + suffix * device.row + Pairs(tokens - suffix, tokens) * device.scored_pair;
  } else if (shape.kind == PrefillKind::kDeviation) {
    // All rows through the layers before the check layer, their K and V in it, the chosen ones on.
    const double all = FullPrefillSeconds(device, shape.tokens(), 0) - device.logits;
    const double share = std::min(
        1.0, (static_cast<double>(shape.check_layer) + 0.25) / static_cast<double>(device.layers));
    recompute = share * all + (1 - share) * recompute;
  }
  parts.after = recompute + CorrectionSeconds(device, shape) + device.logits;
  return parts;
}

}  // namespace tessera
