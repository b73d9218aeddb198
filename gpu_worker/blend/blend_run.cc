#include "gpu_worker/blend/blend_run.h"

#include <algorithm>
#include <utility>

#include "glog/logging.h"

namespace tessera {
namespace {

// A number for every row of the prompt, zero at first, in the device's memory.
class Scores {
 public:
  Scores(DeviceMemory& memory, size_t rows)
      : memory_(memory), numbers_(memory, DType::kF32, 1, static_cast<int64_t>(rows)) {
    memory_.Zero(numbers_->memory, Bytes());
  }
  absl::Span<float> span() { return {numbers_->data(), static_cast<size_t>(numbers_->cols)}; }
  std::vector<float> ToHost() const {
    std::vector<float> host(numbers_->cols);
    memory_.Download(numbers_->memory, Bytes(), host.data());
    return host;
  }

 private:
  size_t Bytes() const { return numbers_->cols * sizeof(float); }

  DeviceMemory& memory_;
  const Activations numbers_;
};

}  // namespace

BlendRun::BlendRun(const Decoder& decoder, KvLoader& loader, const BlendConfig& config,
                   const BlendRequest& request, PromptMemory memory)
    : decoder_(decoder),
      ops_(decoder.ops()),
      loader_(loader),
      config_(config),
      request_(request),
      kv_(std::move(memory.kv)),
      resident_tokens_(memory.resident_tokens),
      placed_(decoder.config().layers, false) {
  for (size_t i = 0; i < request.segments.size(); ++i) {
    const std::vector<uint32_t>& segment = request.segments[i];
    const auto start = static_cast<int64_t>(ids_.size());
    const auto tokens = static_cast<int64_t>(segment.size());
    ids_.insert(ids_.end(), segment.begin(), segment.end());
    if (i + 1 == request.segments.size()) {
      suffix_start_ = start;
      continue;
    }
    // The lead stands where it was computed; behind the lead as sink, so does the first chunk.
    const bool exact = i == 0 || (i == 1 && config.sink == SinkKind::kLead);
    places_.push_back({start, tokens, exact});
    for (int64_t r = 0; r < tokens && !exact; ++r) {
      prompt_rows_.candidates.push_back(static_cast<int32_t>(start + r));
      if (r < config.first_k) prompt_rows_.first_rows.push_back(static_cast<int32_t>(start + r));
    }
  }
  prompt_rows_.count = static_cast<int64_t>(ids_.size());
  CHECK_GE(kv_.capacity(), prompt_rows_.count);
}

Steps<absl::StatusOr<Prefilled>> BlendRun::Run() {
  Activations h;
  int64_t layer = 0;
  if (request_.policy.needs_deviation() && !prompt_rows_.candidates.empty()) {
    CO_ASSIGN_OR_RETURN(h, co_await RunCheckLayers());
    layer = config_.check_layer + 1;
  } else {
    std::vector<float> scores;
    if (request_.policy.needs_query_pass() && !prompt_rows_.candidates.empty()) {
      CO_ASSIGN_OR_RETURN(scores, co_await QueryScores());
    }
    Choose(request_.policy.Select(prompt_rows_, scores, request_.recompute_ratio));
    h = decoder_.Embed(ChosenIds());
  }
  for (; layer < decoder_.config().layers; ++layer) {
    co_await NextStep();
    CO_RETURN_IF_ERROR(co_await RecomputeLayer(layer, h));
  }
  co_return Report(h);
}

Steps<absl::Status> BlendRun::PlaceLayer(int64_t layer) {
  if (placed_[layer]) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await loader_.Arriving(layer));
  ops_.PlaceSlices(SlicesOf(layer, /*resident=*/false), decoder_.rope(), kv_.Layer(layer));
  placed_[layer] = true;
  co_return absl::OkStatus();
}

std::vector<PlacedSlice> BlendRun::SlicesOf(int64_t layer, bool resident) {
  std::vector<PlacedSlice> slices;
  for (size_t i = 0; i < places_.size(); ++i) {
    const RawChunk& chunk = loader_.chunk(i);
    for (int64_t piece = 0; piece < chunk.pieces(); ++piece) {
      const int64_t first = chunk.FirstToken(piece);
      if (!resident && i == 0 && first < resident_tokens_) continue;
      slices.push_back({chunk.Slice(piece, layer), places_[i].start + first});
    }
  }
  return slices;
}

// One pass of the suffix alone over the placed chunks. Its own K and V stay in the memory until the
// recompute overwrites them.
Steps<absl::StatusOr<std::vector<float>>> BlendRun::QueryScores() {
  const absl::Span<const uint32_t> suffix = absl::MakeConstSpan(ids_).subspan(suffix_start_);
  const Indices positions(decoder_.memory(), PositionsFrom(suffix_start_, suffix.size()));
  const bool by_norm = request_.policy.kind() == SelectionPolicy::Kind::kQueryV;
  const int64_t layers = decoder_.config().layers;
  Scores scores(decoder_.memory(), ids_.size());
  const Activations h = decoder_.Embed(suffix);
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (layer > 0) co_await NextStep();
    CO_RETURN_IF_ERROR(co_await PlaceLayer(layer));
    const LayerKv in_layer = kv_.Layer(layer);
    const Qkv fresh = decoder_.ProjectQkv(layer, h);
    ops_.RotateAndWrite(fresh.q, fresh.k, fresh.v, positions, decoder_.rope(), in_layer);
    const Activations attention = decoder_.MakeRows(fresh.q->rows, fresh.q->cols);
    ops_.AttendScored(fresh.q, positions, in_layer, by_norm, attention, scores.span());
    if (layer + 1 < layers) decoder_.FinishLayer(layer, attention, h);
  }
  co_return scores.ToHost();
}

// CacheBlend's way: all rows run up to the check layer, where each cached row's deviation is known.
Steps<absl::StatusOr<Activations>> BlendRun::RunCheckLayers() {
  const Indices all(decoder_.memory(), PositionsFrom(0, prompt_rows_.count));
  const int64_t check = config_.check_layer;
  const Activations h = decoder_.Embed(ids_);
  for (int64_t layer = 0; layer < check; ++layer) {
    decoder_.RunLayer(layer, all, kv_, h, h->rows);
    placed_[layer] = true;  // with fresh rows only
    co_await NextStep();
  }
  Qkv fresh = decoder_.ProjectQkv(check, h);
  CO_ASSIGN_OR_RETURN(const std::vector<float> scores, co_await DeviationScores(check, fresh));
  Choose(request_.policy.Select(prompt_rows_, scores, request_.recompute_ratio));
  // Fresh K and V of every row are at hand in this layer: all are used, only the chosen rows go on.
  const Activations chosen(decoder_.memory(), h->dtype, rows_.size(), h->cols);
  Activations q = decoder_.MakeRows(rows_.size(), fresh.q->cols);
  ops_.GatherRows(h, rows_, chosen);
  ops_.GatherRows(fresh.q, rows_, q);
  fresh.q = std::move(q);
  decoder_.AttendAndFinish(check, fresh, all, rows_, kv_, chosen);
  placed_[check] = true;
  co_return chosen;
}

Steps<absl::StatusOr<std::vector<float>>> BlendRun::DeviationScores(int64_t layer,
                                                                    const Qkv& fresh) {
  CO_RETURN_IF_ERROR(co_await loader_.Arriving(layer));
  const bool by_v = request_.policy.kind() == SelectionPolicy::Kind::kHkvdV;
  const Matrix values = by_v ? fresh.v.view() : fresh.k.view();
  Scores scores(decoder_.memory(), ids_.size());
  ops_.Deviations(values, SlicesOf(layer, /*resident=*/true), by_v, scores.span());
  co_return scores.ToHost();
}

void BlendRun::Choose(std::vector<int32_t> picked) {
  picked_ = std::move(picked);
  std::vector<int32_t> rows = picked_;
  for (auto r = static_cast<int32_t>(suffix_start_); r < prompt_rows_.count; ++r) {
    rows.push_back(r);
  }
  rows_ = Indices(decoder_.memory(), std::move(rows));
}

std::vector<uint32_t> BlendRun::ChosenIds() const {
  std::vector<uint32_t> ids;
  for (int32_t row : rows_.host()) ids.push_back(ids_[row]);
  return ids;
}

std::vector<CorrectedChunk> BlendRun::CorrectedChunks() {
  std::vector<CorrectedChunk> chunks;
  const std::vector<int32_t>& rows = rows_.host();
  for (size_t i = 0; i < places_.size(); ++i) {
    const auto [start, tokens, exact] = places_[i];
    if (exact) continue;
    CorrectedChunk chunk = {.first_position = start};
    const auto first = std::lower_bound(rows.begin(), rows.end(), start);
    const auto last = std::lower_bound(first, rows.end(), start + tokens);
    for (auto row = first; row != last; ++row) {
      chunk.picked.push_back(static_cast<int32_t>(*row - start));
      chunk.fresh_rows.push_back(static_cast<int32_t>(row - rows.begin()));
    }
    // Nothing to learn from, or nothing left to correct.
    if (chunk.picked.empty() || static_cast<int64_t>(chunk.picked.size()) == tokens) continue;
    chunks.push_back(std::move(chunk));
    corrected_.push_back(i);
  }
  return chunks;
}

void BlendRun::PrepareCorrection(int64_t first_layer, int64_t last_layer) {
  std::vector<CorrectedSlices> layers;
  for (int64_t layer = first_layer; layer < last_layer; ++layer) {
    CorrectedSlices& slices = layers.emplace_back();
    for (const size_t i : corrected_) {
      const RawChunk& chunk = loader_.chunk(i);
      std::vector<SliceView>& pieces = slices.emplace_back();
      for (int64_t piece = 0; piece < chunk.pieces(); ++piece) {
        pieces.push_back(chunk.Slice(piece, layer));
      }
    }
  }
  correction_->Prepare(first_layer, std::move(layers));
  prepared_layers_ = last_layer;
}

// Behind the projections of a layer's rows, so that the device has them to do meanwhile.
void BlendRun::Correct(int64_t layer, const Qkv& fresh) {
  if (correction_ == nullptr) {
    correction_ = ops_.MakeCorrection(CorrectedChunks(), config_.constants, decoder_.kv_shape(),
                                      decoder_.rope());
    // A query pass has placed all layers: all are prepared beside the layers to come.
    if (request_.policy.needs_query_pass()) PrepareCorrection(1, decoder_.config().layers);
  }
  // In layer 0 K and V depend on the token alone: there is nothing to correct.
  if (layer == 0) return;
  if (layer >= prepared_layers_) PrepareCorrection(layer, layer + 1);
  correction_->Apply(layer, fresh.k, fresh.v, kv_.Layer(layer));
}

// Recomputes the chosen rows of one layer; after the last layer h is the prompt's last row alone.
Steps<absl::Status> BlendRun::RecomputeLayer(int64_t layer, Activations& h) {
  CO_RETURN_IF_ERROR(co_await PlaceLayer(layer));
  Qkv fresh = decoder_.ProjectQkv(layer, h);
  if (request_.correction) Correct(layer, fresh);
  IndexView positions = rows_;
  if (layer + 1 == decoder_.config().layers) {
    h.KeepLastRows(1);
    fresh.q.KeepLastRows(1);
    positions = positions.last(1);
  }
  decoder_.AttendAndFinish(layer, fresh, rows_, positions, kv_, h);
  co_return absl::OkStatus();
}

Prefilled BlendRun::Report(const Activations& h) {
  Prefilled done;
  const Matrix last = h->Slice(h->rows - 1, 1);
  const Activations logits = decoder_.Logits(last);
  done.logits.assign(logits->data(), logits->data() + logits->cols);
  done.tokens = prompt_rows_.count;
  for (size_t i = 0; i < places_.size(); ++i) {
    SegmentOutcome outcome;
    outcome.tokens = places_[i].tokens;
    outcome.exact = places_[i].exact;
    outcome.cached_tokens = loader_.cached_tokens(i);
    outcome.found = loader_.found(i);
    const auto first = std::lower_bound(picked_.begin(), picked_.end(), places_[i].start);
    outcome.recomputed_tokens =
        std::lower_bound(first, picked_.end(), places_[i].start + outcome.cached_tokens) - first;
    done.segments.push_back(outcome);
  }
  done.segments.push_back({.tokens = prompt_rows_.count - suffix_start_});
  done.picked = std::move(picked_);
  done.kv = std::move(kv_);
  return done;
}

}  // namespace tessera
