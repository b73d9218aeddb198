#include "gpu_worker/blend/self_test.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/cancel_flag.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

// The lead comes from a bf16 chunk, and so it may differ a little from a prefill that never
// rounded.
constexpr double kMostKl = 0.02;
constexpr double kMostRelativeShift = 1e-3, kMostRelativeShiftBf16 = 2e-2;

std::vector<uint32_t> MadeUpTokens(int64_t vocab, uint64_t seed, int64_t count) {
  std::vector<uint32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    ids.push_back(static_cast<uint32_t>((seed >> 33) % static_cast<uint64_t>(vocab)));
  }
  return ids;
}

double SumExp(absl::Span<const float> x, float top) {
  double sum = 0;
  for (float v : x) sum += std::exp(static_cast<double>(v - top));
  return sum;
}

// The first head of one row, rotated to a position.
std::vector<float> RotatedHead(const Decoder& decoder, Matrix row, int32_t position) {
  DeviceMemory& memory = decoder.memory();
  const auto n = static_cast<size_t>(decoder.config().head_dim);
  const Activations head = decoder.MakeRows(1, decoder.config().head_dim);
  const size_t bytes = n * BytesPer(head->dtype);
  memory.Copy(row.memory, bytes, head->memory, bytes, bytes, 1);
  decoder.ops().Rotate(head, {position}, decoder.rope());
  std::vector<float> numbers(n);
  if (head->dtype == DType::kF32) {
    memory.Download(head->memory, bytes, numbers.data());
    return numbers;
  }
  std::vector<Bf16> narrow(n);
  memory.Download(head->memory, bytes, narrow.data());
  std::transform(narrow.begin(), narrow.end(), numbers.begin(), ToFloat);
  return numbers;
}

// Rotates one q and one k to (p, p - distance) for several p: their product must not change.
absl::Status CheckPlacement(const Decoder& decoder) {
  const ModelConfig& model = decoder.config();
  const int64_t distance = std::min<int64_t>(7, decoder.max_len() - 1);
  const std::vector<uint32_t> id = MadeUpTokens(model.vocab, 3, 1);
  const Qkv fresh = decoder.ProjectQkv(0, decoder.Embed(id));
  double first = 0, scale = 0;
  for (const int64_t p : {distance, decoder.max_len() / 2, decoder.max_len() - 1}) {
    if (p < distance) continue;
    const std::vector<float> q = RotatedHead(decoder, fresh.q, p);
    const std::vector<float> k = RotatedHead(decoder, fresh.k, p - distance);
    double product = 0, size = 0;
    for (int64_t i = 0; i < model.head_dim; ++i) {
      product += static_cast<double>(q[i]) * k[i];
      size += std::abs(static_cast<double>(q[i]) * k[i]);
    }
    if (scale == 0) {
      first = product;
      scale = std::max(size, 1e-9);
    }
    // Rotated rows of bf16 are rounded.
    const double most = decoder.memory().activation_type() == DType::kF32 ? kMostRelativeShift
                                                                          : kMostRelativeShiftBf16;
    if (!(std::abs(product - first) <= most * scale)) {
      return absl::FailedPreconditionError(
          absl::StrFormat("RoPE placement: the product of Q and K at distance %d changes from %g "
                          "to %g at position %d",
                          distance, first, product, p));
    }
  }
  return absl::OkStatus();
}

}  // namespace

double KlOfLogits(absl::Span<const float> p, absl::Span<const float> q) {
  const float top_p = *std::max_element(p.begin(), p.end());
  const float top_q = *std::max_element(q.begin(), q.end());
  const double log_p = std::log(SumExp(p, top_p)) + top_p,
               log_q = std::log(SumExp(q, top_q)) + top_q;
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double lp = p[i] - log_p;
    kl += std::exp(lp) * (lp - (q[i] - log_q));
  }
  return kl;
}

absl::StatusOr<SelfTestReport> RunSelfTest(const Decoder& decoder, const BlendConfig& config) {
  RETURN_IF_ERROR(CheckPlacement(decoder));
  const CancelFlag never;
  const std::unique_ptr<CacheClient> no_cache = MakeNullCacheClient();
  Blender blender(&decoder, no_cache.get(), ChunkKey(), config);
  BlendRequest request;
  for (int64_t tokens : {6, 40, 24, 10}) {
    request.segments.push_back(MadeUpTokens(decoder.config().vocab, tokens, tokens));
  }
  if (decoder.max_len() < 80) {
    return absl::FailedPreconditionError("the self-test needs max_len of at least 80 tokens");
  }
  request.recompute_ratio = 1.0;
  request.policy = config.policy;
  ASSIGN_OR_RETURN(const SelectionPolicy query, SelectionPolicy::Parse("query_v"));
  if (!request.policy.needs_deviation()) request.policy = query;
  ASSIGN_OR_RETURN(const Prefilled blended, blender.Prefill(request, never));
  request.exact = true;
  const absl::Time start = absl::Now();
  ASSIGN_OR_RETURN(const Prefilled full, blender.Prefill(request, never));
  SelfTestReport report;
  report.seconds_per_token =
      absl::ToDoubleSeconds(absl::Now() - start) / static_cast<double>(full.tokens);
  report.full_blend_kl = KlOfLogits(full.logits, blended.logits);
  if (!(report.full_blend_kl <= kMostKl)) {
    return absl::FailedPreconditionError(
        absl::StrFormat("a blend that recomputes every row differs from a full prefill: KL %g nats",
                        report.full_blend_kl));
  }
  return report;
}

}  // namespace tessera
