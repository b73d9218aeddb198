#include "gpu_worker/device/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "glog/logging.h"
#include "gpu_worker/device/cpu/matmul.h"
#include "gpu_worker/device/cpu/vector_math.h"

namespace tessera {
namespace {

constexpr int64_t kKeyTile = 256;
// Query rows of a tile times the query heads that share a KV head.
constexpr int64_t kQueryTile = 96;
// Up to this many queries (rows times the heads of a group) the keys are cut into runs of
// kSplitKeys.
constexpr int64_t kFewQueries = 16;
constexpr int64_t kSplitKeys = 512;
// The scored form keeps whole rows of probabilities, so it takes fewer at a time.
constexpr int64_t kScoredTile = 48;
constexpr size_t kScoredTilesAtOnce = 64;

// A tile of queries of one KV head: row (r, j) is query head j of the group at query row first + r.
struct QueryTile {
  int64_t head;   // KV head
  int64_t first;  // query row
  int64_t rows;   // query rows
};

std::vector<QueryTile> TilesOf(int64_t rows, int64_t kv_heads, int64_t group, int64_t most) {
  const int64_t step = std::max<int64_t>(1, most / group);
  std::vector<QueryTile> tiles;
  // The last rows see the most keys: they go first, so that no thread is left with them at the end.
  for (int64_t first = (rows - 1) / step * step; first >= 0; first -= step) {
    for (int64_t head = 0; head < kv_heads; ++head) {
      tiles.push_back({head, first, std::min(step, rows - first)});
    }
  }
  return tiles;
}

// The tile's queries times 1/sqrt(head_dim), [rows * group][head_dim].
void GatherQueries(Matrix q, const QueryTile& tile, int64_t group, int64_t head_dim, float* to) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float* from = q.Row(tile.first + r) + tile.head * group * head_dim;
    for (int64_t i = 0; i < group * head_dim; ++i) to[r * group * head_dim + i] = from[i] * scale;
  }
}

void ScatterOutputs(const float* from, const QueryTile& tile, int64_t group, int64_t head_dim,
                    Matrix out) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    std::memcpy(out.Row(tile.first + r) + tile.head * group * head_dim, from + r * group * head_dim,
                group * head_dim * sizeof(float));
  }
}

// Keys or values of slots first .. first + n as one matrix, copied to `copy` where blocks lie
// apart: a product over the same slots has the same shape, and so the same bits, wherever they are.
const float* Joined(float* (LayerKv::*at)(int64_t, int64_t) const, const LayerKv& kv, int64_t head,
                    int64_t first, int64_t n, std::vector<float>& copy) {
  if (kv.Run(first, n) == n) return (kv.*at)(head, first);
  copy.resize(n * kv.head_dim);
  for (int64_t done = 0; done < n;) {
    const int64_t run = kv.Run(first + done, n - done);
    std::memcpy(copy.data() + done * kv.head_dim, (kv.*at)(head, first + done),
                run * kv.head_dim * sizeof(float));
    done += run;
  }
  return copy.data();
}

// scores[rows][n] = queries times keys first .. first + n.
void Scores(const float* queries, int64_t rows, const LayerKv& kv, int64_t head, int64_t first,
            int64_t n, float* scores) {
  if (rows > 4) {
    thread_local std::vector<float> copy;
    ProductTransposed(rows, n, kv.head_dim, 1.0f, queries, kv.head_dim,
                      Joined(&LayerKv::K, kv, head, first, n, copy), kv.head_dim, 0.0f, scores, n);
    return;
  }
  for (int64_t key = 0; key < n;) {
    const float* k = kv.K(head, first + key);
    for (const int64_t end = key + kv.Run(first + key, n - key); key < end; ++key) {
      for (int64_t r = 0; r < rows; ++r) {
        scores[r * n + key] = Dot(queries + r * kv.head_dim, k, kv.head_dim);
      }
      k += kv.head_dim;
    }
  }
}

// out[rows][head_dim] += weights[rows][n] times values first .. first + n.
void AddValues(const float* weights, int64_t rows, const LayerKv& kv, int64_t head, int64_t first,
               int64_t n, float* out) {
  if (rows > 4) {
    thread_local std::vector<float> copy;
    Product(rows, kv.head_dim, n, weights, n, Joined(&LayerKv::V, kv, head, first, n, copy),
            kv.head_dim, 1.0f, out, kv.head_dim);
    return;
  }
  for (int64_t key = 0; key < n;) {
    const float* v = kv.V(head, first + key);
    for (const int64_t end = key + kv.Run(first + key, n - key); key < end; ++key) {
      for (int64_t r = 0; r < rows; ++r) {
        const float weight = weights[r * n + key];
        float* to = out + r * kv.head_dim;
        for (int64_t i = 0; i < kv.head_dim; ++i) to[i] += weight * v[i];
      }
      v += kv.head_dim;
    }
  }
}

// A tile's softmax over some of its keys: rows of unnormalised sums, their maxima and their
// weights.
struct Partial {
  std::vector<float> result;  // [rows][head_dim]
  std::vector<float> most;    // [rows]
  std::vector<float> sum;     // [rows]
};

// Keys first .. last of one tile, with a running maximum and sum per row (Milakov and Gimelshein
// 2018; FlashAttention's outer loop).
void AttendKeys(Matrix q, absl::Span<const int32_t> positions, const LayerKv& kv, int64_t group,
                const QueryTile& tile, int64_t first_key, int64_t last_key, Partial& partial) {
  const int64_t rows = tile.rows * group, d = kv.head_dim;
  thread_local std::vector<float> queries, scores;
  queries.resize(rows * d);
  scores.resize(rows * kKeyTile);
  partial.result.assign(rows * d, 0.0f);
  partial.most.assign(rows, -std::numeric_limits<float>::infinity());
  partial.sum.assign(rows, 0.0f);
  GatherQueries(q, tile, group, d, queries.data());
  for (int64_t first = first_key; first < last_key; first += kKeyTile) {
    const int64_t n = std::min(kKeyTile, last_key - first);
    Scores(queries.data(), rows, kv, tile.head, first, n, scores.data());
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores.data() + r * n;
      const int64_t seen = std::clamp<int64_t>(positions[tile.first + r / group] + 1 - first, 0, n);
      std::fill(row + seen, row + n, 0.0f);
      if (seen == 0) continue;
      const float top = std::max(partial.most[r], MaxOf(row, seen));
      const float shrink = std::exp(partial.most[r] - top);
      partial.most[r] = top;
      partial.sum[r] = partial.sum[r] * shrink + ExpAndSum(row, seen, top);
      if (shrink != 1.0f) {
        for (int64_t i = 0; i < d; ++i) partial.result[r * d + i] *= shrink;
      }
    }
    AddValues(scores.data(), rows, kv, tile.head, first, n, partial.result.data());
  }
}

// Joins what several runs of keys gave for one tile, and writes it out. The first run holds key 0,
// so every row has seen something.
void JoinPartials(absl::Span<const Partial> partials, const QueryTile& tile, int64_t group,
                  int64_t head_dim, Matrix out) {
  const int64_t rows = tile.rows * group;
  std::vector<float> joined(rows * head_dim, 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    float top = partials[0].most[r], sum = 0;
    for (const Partial& partial : partials) top = std::max(top, partial.most[r]);
    for (const Partial& partial : partials) sum += partial.sum[r] * std::exp(partial.most[r] - top);
    for (const Partial& partial : partials) {
      const float weight = std::exp(partial.most[r] - top) / sum;
      for (int64_t i = 0; i < head_dim; ++i) {
        joined[r * head_dim + i] += weight * partial.result[r * head_dim + i];
      }
    }
  }
  ScatterOutputs(joined.data(), tile, group, head_dim, out);
}

// A decode step: too few queries to keep the cores busy, so the keys are cut into runs
// (FlashDecoding).
void AttendSplit(Parallel& parallel, Matrix q, absl::Span<const int32_t> positions,
                 const LayerKv& kv, int64_t group, absl::Span<const QueryTile> tiles, Matrix out) {
  const int64_t keys = positions.back() + 1;
  const int64_t splits = (keys + kSplitKeys - 1) / kSplitKeys;
  std::vector<Partial> partials(tiles.size() * splits);
  parallel.For(static_cast<int64_t>(partials.size()), [&](int64_t i) {
    const int64_t first = i % splits * kSplitKeys;
    AttendKeys(q, positions, kv, group, tiles[i / splits], first,
               std::min(keys, first + kSplitKeys), partials[i]);
  });
  for (size_t t = 0; t < tiles.size(); ++t) {
    JoinPartials(absl::MakeConstSpan(partials).subspan(t * splits, splits), tiles[t], group,
                 kv.head_dim, out);
  }
}

// What a tile's queries pay to each key: the sum over its rows of their probabilities, or of the
// squares of these. One run of `slots` numbers for each query head of the group.
struct Attention {
  bool squares = false;
  int64_t slots = 0;
  float* sums = nullptr;
};

// The same with whole rows of probabilities; adds them to `attention`.
void AttendScoredTile(Matrix q, absl::Span<const int32_t> positions, const LayerKv& kv,
                      int64_t group, const QueryTile& tile, Matrix out,
                      const Attention& attention) {
  const int64_t rows = tile.rows * group, d = kv.head_dim;
  const int64_t keys = positions[tile.first + tile.rows - 1] + 1;
  thread_local std::vector<float> queries, scores, result;
  queries.resize(rows * d);
  scores.resize(rows * keys);
  result.assign(rows * d, 0.0f);
  GatherQueries(q, tile, group, d, queries.data());
  Scores(queries.data(), rows, kv, tile.head, 0, keys, scores.data());
  for (int64_t r = 0; r < rows; ++r) {
    float* row = scores.data() + r * keys;
    const int64_t seen = positions[tile.first + r / group] + 1;
    std::fill(row + seen, row + keys, 0.0f);
    const float scale = 1.0f / ExpAndSum(row, seen, MaxOf(row, seen));
    for (int64_t i = 0; i < seen; ++i) row[i] *= scale;
    float* sums = attention.sums + r % group * attention.slots;
    if (attention.squares) {
      for (int64_t i = 0; i < seen; ++i) sums[i] += row[i] * row[i];
    } else {
      for (int64_t i = 0; i < seen; ++i) sums[i] += row[i];
    }
  }
  AddValues(scores.data(), rows, kv, tile.head, 0, keys, result.data());
  ScatterOutputs(result.data(), tile, group, d, out);
}

int64_t GroupOf(Matrix q, absl::Span<const int32_t> positions, const LayerKv& kv, Matrix out) {
  CHECK_EQ(q.rows, static_cast<int64_t>(positions.size()));
  CHECK_EQ(q.rows, out.rows);
  CHECK_EQ(q.cols % (kv.kv_heads * kv.head_dim), 0);
  CHECK(positions.empty() || positions.back() < kv.capacity);
  return q.cols / (kv.kv_heads * kv.head_dim);
}

}  // namespace

void AttendOnCpu(Parallel& parallel, Matrix q, absl::Span<const int32_t> positions,
                 const LayerKv& kv, Matrix out) {
  const int64_t group = GroupOf(q, positions, kv, out);
  if (q.rows == 0) return;
  const std::vector<QueryTile> tiles = TilesOf(q.rows, kv.kv_heads, group, kQueryTile);
  if (q.rows * group <= kFewQueries) {
    AttendSplit(parallel, q, positions, kv, group, tiles, out);
    return;
  }
  parallel.For(static_cast<int64_t>(tiles.size()), [&](int64_t i) {
    thread_local Partial partial;
    const QueryTile& tile = tiles[i];
    AttendKeys(q, positions, kv, group, tile, 0, positions[tile.first + tile.rows - 1] + 1,
               partial);
    JoinPartials({&partial, 1}, tile, group, kv.head_dim, out);
  });
}

void AttendScoredOnCpu(Parallel& parallel, Matrix q, absl::Span<const int32_t> positions,
                       const LayerKv& kv, bool by_value_norm, Matrix out,
                       absl::Span<float> scores) {
  const int64_t group = GroupOf(q, positions, kv, out);
  if (q.rows == 0) return;
  const int64_t slots = static_cast<int64_t>(scores.size());
  CHECK_GT(slots, positions.back());
  const std::vector<QueryTile> tiles = TilesOf(q.rows, kv.kv_heads, group, kScoredTile);
  // Sums of each tile, some tiles at a time so that memory stays small, added up in tile order: the
  // same bits with any number of threads.
  const int64_t heads = group * kv.kv_heads, tile_sums = group * slots;
  std::vector<float> attention, sums(heads * slots, 0.0f);
  for (size_t done = 0; done < tiles.size(); done += kScoredTilesAtOnce) {
    const size_t count = std::min(kScoredTilesAtOnce, tiles.size() - done);
    attention.assign(count * tile_sums, 0.0f);
    parallel.For(static_cast<int64_t>(count), [&](int64_t i) {
      AttendScoredTile(q, positions, kv, group, tiles[done + i], out,
                       {by_value_norm, slots, attention.data() + i * tile_sums});
    });
    for (size_t t = 0; t < count; ++t) {
      float* to = sums.data() + tiles[done + t].head * tile_sums;
      for (int64_t i = 0; i < tile_sums; ++i) to[i] += attention[t * tile_sums + i];
    }
  }
  const auto rows = static_cast<float>(q.rows);
  parallel.ForRanges(slots, 256, [&](int64_t first, int64_t last) {
    for (int64_t slot = first; slot < last; ++slot) {
      float score = 0;
      for (int64_t h = 0; h < kv.kv_heads; ++h) {
        const float* of = sums.data() + h * tile_sums + slot;
        float paid = 0;
        for (int64_t j = 0; j < group; ++j) {
          paid += by_value_norm ? std::sqrt(of[j * slots] / rows) : of[j * slots] / rows;
        }
        const float* v = kv.V(h, slot);
        score += by_value_norm ? paid * std::sqrt(Dot(v, v, kv.head_dim))
                               : paid / static_cast<float>(heads);
      }
      scores[slot] += score;
    }
  });
}

}  // namespace tessera
