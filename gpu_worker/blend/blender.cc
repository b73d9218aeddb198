#include "gpu_worker/blend/blender.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/chunk_hash.h"
#include "base/status_macros.h"
#include "glog/logging.h"
#include "gpu_worker/blend/blend_run.h"
#include "gpu_worker/blend/prefix_run.h"

namespace tessera {
namespace {

constexpr absl::Duration kShortestFetch = absl::Seconds(1);
constexpr absl::Duration kLongestFetch = absl::Seconds(60);

std::vector<uint32_t> BosOf(SinkKind sink, const ModelConfig& model) {
  if (sink != SinkKind::kBos || model.bos_token_id < 0) return {};
  return {static_cast<uint32_t>(model.bos_token_id)};
}

}  // namespace

std::vector<uint32_t> BlendRequest::Ids() const {
  std::vector<uint32_t> ids;
  for (const std::vector<uint32_t>& segment : segments) {
    ids.insert(ids.end(), segment.begin(), segment.end());
  }
  return ids;
}

int64_t BlendRequest::Tokens() const {
  int64_t tokens = 0;
  for (const std::vector<uint32_t>& segment : segments) {
    tokens += static_cast<int64_t>(segment.size());
  }
  return tokens;
}

Layout LayoutOf(const ModelConfig& model, const std::string& weights_digest) {
  Layout layout;
  layout.model_digest = weights_digest;
  layout.architecture = model.family;
  layout.layers = static_cast<uint32_t>(model.layers);
  layout.kv_heads = static_cast<uint32_t>(model.kv_heads);
  layout.head_dim = static_cast<uint32_t>(model.head_dim);
  layout.rope = absl::StrCat(model.rope.ToString(), " rms_eps=", model.rms_eps);
  return layout;
}

Blender::Blender(const Decoder* decoder, CacheClient* client, const ChunkKey& fingerprint,
                 const BlendConfig& config, ChunkPool* pool)
    : decoder_(*decoder),
      client_(*client),
      fingerprint_(fingerprint),
      config_(config),
      own_pool_(pool == nullptr ? std::make_unique<ChunkPool>(0) : nullptr),
      pool_(pool == nullptr ? *own_pool_ : *pool),
      bos_(BosOf(config.sink, decoder->config())),
      chunk_prefill_(decoder),
      questions_(client, [this] { pool_.Progress(); }) {
  CHECK_GE(config.check_layer, 0);
  CHECK_LT(config.check_layer, decoder->config().layers);
  CHECK_GT(config.tokens_per_piece, 0);
}

WantedChunk Blender::Want(absl::Span<const uint32_t> tokens, absl::Span<const uint32_t> sink,
                          const std::string& salt) const {
  return {MakeChunkKey(fingerprint_, salt, sink, tokens), sink, tokens, MakeTenant(salt),
          ChunkHash(salt, tokens)};
}

absl::Duration Blender::FetchTimeout(int64_t tokens) const {
  return std::clamp(absl::Seconds(static_cast<double>(tokens) * seconds_per_token_), kShortestFetch,
                    kLongestFetch);
}

std::unique_ptr<ChunkRun> Blender::MakeChunkRun(absl::Span<const uint32_t> tokens,
                                                const std::string& salt,
                                                const std::string& request_id,
                                                const CancelFlag* cancelled) {
  CHECK(!tokens.empty());
  CHECK(config_.sink != SinkKind::kLead);
  return std::make_unique<ChunkRun>(
      &decoder_, &client_, &questions_, &chunk_prefill_, &pool_, Want(tokens, bos_, salt),
      config_.tokens_per_piece,
      CallOptions(FetchTimeout(static_cast<int64_t>(tokens.size())), request_id), cancelled);
}

namespace {

// Whether a full prefill runs, whatever chunks there are.
bool IsPlain(const BlendRequest& request) { return request.exact || request.segments.size() == 1; }

}  // namespace

std::vector<ChunkKey> Blender::PrefixKeys(const BlendRequest& request) const {
  std::vector<uint32_t> ids;
  int64_t tokens = 0;  // that may be shared
  if (IsPlain(request)) {
    if (!request.prefixes) return {};
    ids = request.Ids();
    tokens = static_cast<int64_t>(ids.size()) - 1;  // the last one's logits are wanted
  } else {
    // The hkvd policies compute the lead again in their first layers, in f32.
    if (request.policy.needs_deviation()) return {};
    ids = request.segments.front();
    tokens = static_cast<int64_t>(ids.size());
  }
  std::vector<ChunkKey> keys;
  ChunkKey parent = MakePrefixRoot(fingerprint_, request.salt);
  const int64_t step = config_.tokens_per_piece;
  for (int64_t first = 0; first + step <= tokens; first += step) {
    parent = MakeBlockKey(parent, absl::MakeConstSpan(ids).subspan(first, step));
    keys.push_back(parent);
  }
  return keys;
}

Steps<absl::StatusOr<Prefilled>> Blender::Prefilling(const BlendRequest& request,
                                                     PromptMemory memory,
                                                     const CancelFlag& cancelled,
                                                     Decoder::OnRows on_rows) {
  CHECK(!request.segments.empty());
  if (on_rows) return PrefillingExact(request, std::move(memory), std::move(on_rows));
  if (!IsPlain(request)) {
    return request.choose && costs_ != nullptr
               ? PrefillingCheaper(request, std::move(memory), cancelled)
               : Blending(request, WantedOf(request), std::move(memory), cancelled);
  }
  if (!request.prefixes) return PrefillingExact(request, std::move(memory), nullptr);
  return PrefillingBehindPrefix(request, /*fetch=*/true, std::move(memory), cancelled);
}

absl::StatusOr<Prefilled> Blender::Prefill(const BlendRequest& request, const CancelFlag& cancelled,
                                           Decoder::OnRows on_rows) {
  KvMemory kv = decoder_.MakeKv(request.Tokens() + request.max_new_tokens);
  const CancelFlag::Hook on_cancelled(cancelled, [this] { pool_.Progress(); });
  return RunSteps(Prefilling(request, {std::move(kv)}, cancelled, std::move(on_rows)),
                  cancelled.value(), [this](absl::Time until) { pool_.AwaitProgress(until); },
                  // As an engine does: what arrives meanwhile is brought together.
                  [this] { decoder_.memory().Pace(); });
}

std::vector<WantedChunk> Blender::WantedOf(const BlendRequest& request) const {
  std::vector<WantedChunk> wanted;
  for (size_t i = 0; i + 1 < request.segments.size(); ++i) {
    absl::Span<const uint32_t> sink;
    if (i > 0) {
      sink = config_.sink == SinkKind::kLead ? absl::MakeConstSpan(request.segments[0])
                                             : absl::MakeConstSpan(bos_);
    }
    wanted.push_back(Want(request.segments[i], sink, request.salt));
  }
  return wanted;
}

Steps<absl::StatusOr<Prefilled>> Blender::Blending(const BlendRequest& request,
                                                   std::vector<WantedChunk> wanted,
                                                   PromptMemory memory,
                                                   const CancelFlag& cancelled) {
  const int64_t cacheable = request.Tokens() - static_cast<int64_t>(request.segments.back().size());
  KvLoader loader(&decoder_, &client_, &chunk_prefill_, &pool_, config_.tokens_per_piece,
                  &cancelled);
  loader.Begin(wanted, {FetchTimeout(cacheable), request.request_id});
  Prefilled done;
  done.kv = std::move(memory.kv);
  // Again only after a lease was lost: then one chunk more is computed. The slots that were
  // resident are as they were.
  do {
    if (!config_.layerwise) {
      CO_RETURN_IF_ERROR(co_await loader.Arriving(decoder_.config().layers - 1));
    }
    BlendRun run(decoder_, loader, config_, request, {std::move(done.kv), memory.resident_tokens});
    CO_ASSIGN_OR_RETURN(done, co_await run.Run());
  } while (!loader.Confirm());
  done.blended = true;
  if (request.store) done.fresh = loader.TakeFresh();
  co_return done;
}

Steps<absl::StatusOr<Prefilled>> Blender::PrefillingBehindPrefix(const BlendRequest& request,
                                                                 bool fetch, PromptMemory memory,
                                                                 const CancelFlag& cancelled) {
  Prefilled done;
  const std::vector<uint32_t> ids = request.Ids();
  done.tokens = static_cast<int64_t>(ids.size());
  done.kv = std::move(memory.kv);
  PrefixRun run(&decoder_, &client_, &chunk_prefill_, &pool_, ids, PrefixKeys(request),
                config_.tokens_per_piece, memory.resident_tokens / config_.tokens_per_piece,
                &cancelled);
  const absl::Duration timeout = fetch ? FetchTimeout(done.tokens) : absl::ZeroDuration();
  CO_ASSIGN_OR_RETURN(const Activations last,
                      co_await run.Run({timeout, request.request_id}, done.kv));
  int64_t start = 0;
  for (const std::vector<uint32_t>& segment : request.segments) {
    SegmentOutcome outcome = {.tokens = static_cast<int64_t>(segment.size()), .exact = true};
    outcome.cached_tokens = std::clamp<int64_t>(run.cached_tokens() - start, 0, outcome.tokens);
    outcome.found = run.Found(start, outcome.tokens);
    start += outcome.tokens;
    done.segments.push_back(std::move(outcome));
  }
  if (request.store) done.fresh = run.TakeFresh(MakeTenant(request.salt));
  SetLogits(last, &done);
  co_return done;
}

Steps<absl::StatusOr<Prefilled>> Blender::PrefillingExact(const BlendRequest& request,
                                                          PromptMemory memory,
                                                          Decoder::OnRows on_rows) {
  Prefilled done;
  const std::vector<uint32_t> ids = request.Ids();
  for (const std::vector<uint32_t>& segment : request.segments) {
    done.segments.push_back({.tokens = static_cast<int64_t>(segment.size())});
  }
  done.tokens = static_cast<int64_t>(ids.size());
  done.kv = std::move(memory.kv);
  CO_ASSIGN_OR_RETURN(const Activations last,
                      co_await decoder_.Extending(done.kv, ids, 0, std::move(on_rows)));
  SetLogits(last, &done);
  co_return done;
}

void Blender::SetLogits(Matrix last, Prefilled* prefilled) const {
  const Activations logits = decoder_.Logits(last);
  prefilled->logits.assign(logits->data(), logits->data() + logits->cols);
}

}  // namespace tessera
