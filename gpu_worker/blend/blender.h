// Prefill of a prompt from chunks: place them, recompute a few rows with the whole prompt in view,
// correct the rest, and go on as if the whole prompt had been computed.
#ifndef TESSERA_GPU_WORKER_BLEND_BLENDER_H_
#define TESSERA_GPU_WORKER_BLEND_BLENDER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/cancel_flag.h"
#include "base/steps.h"
#include "cache_server/chunk/layout.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/cache_questions.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/chunk_prefill.h"
#include "gpu_worker/blend/chunk_run.h"
#include "gpu_worker/blend/cost_model.h"
#include "gpu_worker/blend/kv_loader.h"
#include "gpu_worker/blend/policy.h"
#include "gpu_worker/blend/tier_tokens.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// What stands before a chunk when its KV is computed alone. kLead: the prompt's lead segment, whose
// ids then are part of every chunk's key.
enum class SinkKind { kNone, kBos, kLead };

// What a request gets when it does not say otherwise, and what it cannot say.
struct BlendConfig {
  SelectionPolicy policy;
  double recompute_ratio = 0.15;   // of the cached rows that are not exact, 0..1
  std::optional<bool> correction;  // none: as the policy's default
  int64_t check_layer = 1;         // where the hkvd policies choose
  int64_t first_k = 16;            // rows of each chunk that first_k takes
  SinkKind sink = SinkKind::kBos;
  int64_t tokens_per_piece = 256;
  bool layerwise = true;       // compute layer l while later ones arrive
  bool choose_by_cost = true;  // what BlendRequest::choose is where the request leaves it open
  CorrectionConstants constants;
};

struct BlendRequest {
  std::vector<std::vector<uint32_t>> segments;  // lead, chunks, suffix; none empty
  std::string salt;                             // part of every chunk key
  bool exact = false;                           // full prefill, no chunk read or made
  // Whether a full prefill reads and makes blocks of exact prefixes (prefix_run.h). It is then
  // computed with K and V rounded as the cache has them, whatever it finds there.
  bool prefixes = false;
  bool store = true;         // whether what is computed may be stored
  bool report_rows = false;  // whether who asked wants to know which rows were recomputed
  // Whether a full prefill behind the prompt's exact prefix may run instead of a blend, where the
  // cost model says that it is faster.
  bool choose = false;
  SelectionPolicy policy;
  double recompute_ratio = 0.15;
  bool correction = false;
  int64_t max_new_tokens = 0;  // of an answer
  std::string request_id;      // for the cache server's log (CallOptions)

  // The prompt: all segments' tokens, joined.
  std::vector<uint32_t> Ids() const;
  // How many these are.
  int64_t Tokens() const;
};

// Where a prompt's KV goes: memory for all of it, whose first slots may hold a prefix of it
// already.
struct PromptMemory {
  KvMemory kv;
  int64_t resident_tokens = 0;  // whole pieces of those that PrefixKeys names
};

// How a segment got its KV.
struct SegmentOutcome {
  int64_t tokens = 0;
  int64_t cached_tokens = 0;      // its first tokens that came from the cache
  int64_t recomputed_tokens = 0;  // of these, chosen by the policy
  bool exact = false;             // cached in just the context that it has here
  std::vector<TierTokens> found;  // cached_tokens, by the tiers that they came from, in order

  // That of its first token; empty: not cached.
  std::string tier() const { return found.empty() ? "" : found.front().tier; }
};

// What a prefill took, against what the cost model says of it in hindsight.
struct PrefillCost {
  CostDecision predicted;
  double compute_seconds = 0;  // without waiting for the cache
  double full_seconds = 0;     // predicted, of a full prefill with nothing cached
};

// Tokens that the cache server was known to have, as chunks or as a prefix, when the cost model
// chose; and what it chose.
struct PullChoice {
  int64_t pulled = 0;
  int64_t recomputed = 0;  // computing them was predicted to be faster
};

struct Prefilled {
  KvMemory kv;                           // positions 0 .. tokens - 1 are filled
  int64_t tokens = 0;                    // of the prompt
  std::vector<float> logits;             // of the last row, [vocab]
  std::vector<SegmentOutcome> segments;  // one each
  std::vector<int32_t> picked;           // rows that the policy chose, ascending
  std::vector<FreshChunk> fresh;         // to be stored after the first token is out, if at all
  bool blended = false;                  // otherwise it was a full prefill
  bool chosen = false;                   // by the cost model
  PullChoice pulls;                      // of the cost model
  // It chose a full prefill, and would have chosen a blend of chunks that are there: these are
  // worth being computed ahead.
  bool wants_chunks = false;
  std::optional<PrefillCost> cost;  // Blender::Learn
};

// Not thread-safe: one request at a time, on the thread that issues device work.
class Blender {
 public:
  // All must outlive the blender. fingerprint: of this model's layout. pool: where hot chunks stay;
  // without one nothing stays.
  Blender(const Decoder* decoder, CacheClient* client, const ChunkKey& fingerprint,
          const BlendConfig& config, ChunkPool* pool = nullptr);

  // A prompt's way to its first logits; a layer is a step. The request and `cancelled` must outlive
  // it. With `on_rows` it is a full prefill, whatever the request says, that shows every row
  // (Decoder::Extending). CANCELLED when `cancelled` is set, and what `on_rows` returns; no other
  // error: a cache that fails only makes it slower.
  Steps<absl::StatusOr<Prefilled>> Prefilling(const BlendRequest& request, PromptMemory memory,
                                              const CancelFlag& cancelled,
                                              Decoder::OnRows on_rows = nullptr);

  // The same at once, in memory of its own with room for max_new_tokens.
  absl::StatusOr<Prefilled> Prefill(const BlendRequest& request, const CancelFlag& cancelled,
                                    Decoder::OnRows on_rows = nullptr);

  // Keys of the prompt's first pieces whose KV other prompts that begin alike may use as it is in
  // Prefilled::kv (MakeBlockKey). Empty for what is not rounded as the cache has it.
  std::vector<ChunkKey> PrefixKeys(const BlendRequest& request) const;

  // A segment to be computed alone and stored, under the key that a prompt with this segment asks
  // for. `request_id` as BlendRequest's. `tokens` and `cancelled` must outlive it; it and prompts
  // may take turns. Not with the sink kLead, where a chunk depends on its prompt.
  std::unique_ptr<ChunkRun> MakeChunkRun(absl::Span<const uint32_t> tokens, const std::string& salt,
                                         const std::string& request_id,
                                         const CancelFlag* cancelled);

  // Called, from any thread, whenever something may have come that a prefill waits for. Must be
  // quick. To be set while none is under way.
  void set_on_progress(std::function<void()> on_progress) {
    pool_.set_on_progress(std::move(on_progress));
  }

  const BlendConfig& config() const { return config_; }

  // Who chooses for requests that leave it open; without one they are blended. Must outlive the
  // blender.
  void set_costs(CostModel* costs) { costs_ = costs; }
  // How long the calling thread has waited for the cache so far (CostModel::waited).
  absl::Duration waited() const;
  // Tells the cost model how long the steps of a prefill took, and *prefilled what it had thought.
  void Learn(const BlendRequest& request, absl::Duration computed, Prefilled* prefilled);

  // Seconds that computing a token takes here: bounds how long a fetch may take (not slower than
  // computing).
  void set_seconds_per_token(double seconds) { seconds_per_token_ = seconds; }

 private:
  // full: the request as a full prefill.
  // asked: whether it is known what the cache has.
  Steps<CostDecision> Deciding(const std::vector<WantedChunk>& wanted, const BlendRequest& full,
                               PromptShape* shape, bool* asked);
  // Fills in what the cache has; true when done. No byte of KV moves.
  Steps<bool> AskingCache(const std::vector<WantedChunk>& wanted, const BlendRequest& full,
                          PromptShape* shape);
  Steps<absl::StatusOr<Prefilled>> PrefillingCheaper(const BlendRequest& request,
                                                     PromptMemory memory,
                                                     const CancelFlag& cancelled);
  Steps<absl::StatusOr<Prefilled>> Blending(const BlendRequest& request,
                                            std::vector<WantedChunk> wanted, PromptMemory memory,
                                            const CancelFlag& cancelled);
  // fetch: whether the cache is asked for the prefix.
  Steps<absl::StatusOr<Prefilled>> PrefillingBehindPrefix(const BlendRequest& request, bool fetch,
                                                          PromptMemory memory,
                                                          const CancelFlag& cancelled);
  Steps<absl::StatusOr<Prefilled>> PrefillingExact(const BlendRequest& request, PromptMemory memory,
                                                   Decoder::OnRows on_rows);
  void SetLogits(Matrix last, Prefilled* prefilled) const;
  std::vector<WantedChunk> WantedOf(const BlendRequest& request) const;
  WantedChunk Want(absl::Span<const uint32_t> tokens, absl::Span<const uint32_t> sink,
                   const std::string& salt) const;
  absl::Duration FetchTimeout(int64_t tokens) const;

  const Decoder& decoder_;
  CacheClient& client_;
  const ChunkKey fingerprint_;
  const BlendConfig config_;
  const std::unique_ptr<ChunkPool> own_pool_;  // if none was given
  ChunkPool& pool_;
  const std::vector<uint32_t> bos_;  // the sink of kBos; empty otherwise
  ChunkPrefill chunk_prefill_;
  double seconds_per_token_ = 0.005;
  CostModel* costs_ = nullptr;
  CacheQuestions questions_;  // last: its thread ends first
};

// The part of the model that KV depends on. weights_digest: hex SHA-256.
Layout LayoutOf(const ModelConfig& model, const std::string& weights_digest);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_BLENDER_H_
