// Hit ratios of the eviction policies on made-up traces, by requests and by bytes, with caches of a
// part of the trace's footprint (the bytes of all its different pieces). The first fifth of a trace
// fills the cache and is not counted. Ends with one line of JSON.
//   bazel run -c opt //tests/bench:eviction_bench
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cache_server/tier/eviction_policy.h"

ABSL_FLAG(uint32_t, requests, 500000, "Pieces asked for in each trace.");
ABSL_FLAG(uint32_t, pieces, 20000, "Different pieces in a trace, apart from scans.");
ABSL_FLAG(uint64_t, seed, 1, "Seed of the traces.");

namespace tessera {
namespace {

// 256 tokens of SmolLM2-135M.
constexpr uint64_t kFullPiece = uint64_t{256} * 23040;

struct Piece {
  ChunkKey key;
  uint64_t bytes;
};

struct Trace {
  std::string name;
  std::vector<Piece> pieces;
  std::vector<uint32_t> requests;  // indices into `pieces`

  uint64_t footprint() const {
    uint64_t bytes = 0;
    for (const Piece& piece : pieces) bytes += piece.bytes;
    return bytes;
  }
};

// Draws 0, 1, ... with probabilities falling as 1 / (rank + 1)^exponent.
class Zipf {
 public:
  Zipf(uint32_t count, double exponent) {
    double sum = 0;
    for (uint32_t rank = 1; rank <= count; ++rank)
      sums_.push_back(sum += std::pow(rank, -exponent));
  }
  uint32_t operator()(std::mt19937_64& random) const {
    const double at = std::uniform_real_distribution<double>(0, sums_.back())(random);
    const auto found = std::upper_bound(sums_.begin(), sums_.end(), at) - sums_.begin();
    return static_cast<uint32_t>(std::min<size_t>(found, sums_.size() - 1));
  }

 private:
  std::vector<double> sums_;
};

// Three in four are full; the others are the ends of segments.
uint32_t AddPiece(std::mt19937_64& random, Trace* trace) {
  const bool full = random() % 4 != 0;
  const uint64_t bytes = full ? kFullPiece : kFullPiece * (1 + random() % 255) / 256;
  const auto number = static_cast<uint32_t>(trace->pieces.size());
  trace->pieces.push_back({MakePieceKey(ChunkKey(), 256, number), bytes});
  return number;
}

Trace ZipfTrace(double exponent) {
  std::mt19937_64 random(absl::GetFlag(FLAGS_seed));
  Trace trace{absl::StrFormat("zipf %.1f", exponent), {}, {}};
  for (uint32_t i = 0; i < absl::GetFlag(FLAGS_pieces); ++i) AddPiece(random, &trace);
  const Zipf zipf(absl::GetFlag(FLAGS_pieces), exponent);
  for (uint32_t i = 0; i < absl::GetFlag(FLAGS_requests); ++i) {
    trace.requests.push_back(zipf(random));
  }
  return trace;
}

// After every tenth of the requests, pieces that are asked for once only: together as many as there
// are others, so the footprint is doubled by them.
Trace ScanTrace(double exponent) {
  std::mt19937_64 random(absl::GetFlag(FLAGS_seed));
  const Trace zipf = ZipfTrace(exponent);
  Trace trace{absl::StrCat(zipf.name, " + scans"), zipf.pieces, {}};
  const size_t part = zipf.requests.size() / 10;
  for (size_t i = 0; i < zipf.requests.size(); ++i) {
    trace.requests.push_back(zipf.requests[i]);
    if ((i + 1) % part != 0) continue;
    for (uint32_t scanned = 0; scanned < absl::GetFlag(FLAGS_pieces) / 10; ++scanned) {
      trace.requests.push_back(AddPiece(random, &trace));
    }
  }
  return trace;
}

// Prompts of ten documents in a random order, each a run of 1 to 8 pieces, with popular and rare
// ones.
Trace RagTrace() {
  constexpr int kDocumentsPerPrompt = 10;
  std::mt19937_64 random(absl::GetFlag(FLAGS_seed));
  Trace trace{"rag", {}, {}};
  std::vector<std::vector<uint32_t>> documents;
  while (trace.pieces.size() < absl::GetFlag(FLAGS_pieces)) {
    documents.emplace_back();
    for (uint32_t i = 1 + random() % 8; i > 0; --i) {
      documents.back().push_back(AddPiece(random, &trace));
    }
  }
  const Zipf zipf(static_cast<uint32_t>(documents.size()), 0.9);
  while (trace.requests.size() < absl::GetFlag(FLAGS_requests)) {
    std::vector<uint32_t> prompt;
    while (prompt.size() < kDocumentsPerPrompt) {
      const uint32_t document = zipf(random);
      if (std::find(prompt.begin(), prompt.end(), document) == prompt.end()) {
        prompt.push_back(document);
      }
    }
    for (const uint32_t document : prompt) {
      for (const uint32_t piece : documents[document]) trace.requests.push_back(piece);
    }
  }
  return trace;
}

struct Ratios {
  double requests = 0;
  double bytes = 0;
};

Ratios Replay(const Trace& trace, EvictionKind kind, uint64_t capacity) {
  const auto policy = MakeEvictionPolicy(kind, capacity);
  absl::flat_hash_map<ChunkKey, uint64_t> cached;
  uint64_t used = 0;
  uint64_t hits = 0, asked = 0, hit_bytes = 0, asked_bytes = 0;
  for (size_t i = 0; i < trace.requests.size(); ++i) {
    const Piece& piece = trace.pieces[trace.requests[i]];
    const bool hit = cached.contains(piece.key);
    if (i >= trace.requests.size() / 5) {
      ++asked;
      asked_bytes += piece.bytes;
      if (hit) ++hits;
      if (hit) hit_bytes += piece.bytes;
    }
    if (hit) {
      policy->Touch(piece.key);
      continue;
    }
    while (used + piece.bytes > capacity) {
      const auto victim = cached.find(*policy->Evict([](const ChunkKey&) { return true; }));
      used -= victim->second;
      cached.erase(victim);
    }
    policy->Add(piece.key, piece.bytes);
    cached[piece.key] = piece.bytes;
    used += piece.bytes;
  }
  return {static_cast<double>(hits) / static_cast<double>(asked),
          static_cast<double>(hit_bytes) / static_cast<double>(asked_bytes)};
}

void Run() {
  std::vector<std::string> json;
  std::printf("%-18s %6s | %8s %8s | %8s %8s\n", "trace", "cache", "lru", "s3fifo", "lru",
              "s3fifo");
  std::printf("%-18s %6s | %17s | %17s\n", "", "", "hits by requests", "hits by bytes");
  for (const Trace& trace :
       {ZipfTrace(0.8), ZipfTrace(1.0), ScanTrace(0.8), ScanTrace(1.0), RagTrace()}) {
    for (const uint32_t percent : {5, 10, 25}) {
      const uint64_t capacity = trace.footprint() * percent / 100;
      const Ratios lru = Replay(trace, EvictionKind::kLru, capacity);
      const Ratios s3 = Replay(trace, EvictionKind::kS3Fifo, capacity);
      std::printf("%-18s %4u %% | %8.4f %8.4f | %8.4f %8.4f\n", trace.name.c_str(), percent,
                  lru.requests, s3.requests, lru.bytes, s3.bytes);
      json.push_back(absl::StrFormat(
          R"({"trace": "%s", "cache_percent": %d, "lru": {"requests": %.4f, "bytes": %.4f}, )"
          R"("s3fifo": {"requests": %.4f, "bytes": %.4f}})",
          trace.name, percent, lru.requests, lru.bytes, s3.requests, s3.bytes));
    }
  }
  std::printf("{\"eviction_bench\": [%s]}\n", absl::StrJoin(json, ", ").c_str());
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  tessera::Run();
  return 0;
}
