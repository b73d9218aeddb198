#include "gpu_worker/device/cuda/prepared_correction.h"

#include <algorithm>

#include "gpu_worker/device/cuda/views.h"

namespace tessera::cuda {
namespace {

// The first layers are wanted at once; more at a time keep the card busier.
constexpr int64_t kFirstGroup = 2, kGroup = 8;

CorrectionShape ShapeOf(const KvShape& shape, const CorrectionConstants& constants) {
  return {.layers = static_cast<int>(shape.layers),
          .kv_heads = static_cast<int>(shape.kv_heads),
          .head_dim = static_cast<int>(shape.head_dim),
          .rule = {.length = constants.length,
                   .nearness = constants.nearness,
                   .noise = constants.noise,
                   .bound = constants.bound,
                   .fewest = constants.fewest,
                   .most = constants.most}};
}

}  // namespace

PreparedCorrection::PreparedCorrection(CudaMemory* memory, absl::Span<const CorrectedChunk> chunks,
                                       const CorrectionConstants& constants, const KvShape& shape,
                                       const Rope& rope)
    : memory_(*memory),
      chunks_(chunks.begin(), chunks.end()),
      shape_(ShapeOf(shape, constants)),
      rope_(rope) {}

// Copies and kernels beside the work may still be on their way when a request was cancelled.
PreparedCorrection::~PreparedCorrection() {
  for (auto& [layer, event] : ready_) event.Wait();
  if (correction_ != nullptr) memory_.Mark()->Wait();
}

void PreparedCorrection::Begin(const CorrectedSlices& slices) {
  std::vector<int32_t> rows;  // picked and fresh rows of each chunk
  for (const CorrectedChunk& chunk : chunks_) {
    rows.insert(rows.end(), chunk.picked.begin(), chunk.picked.end());
    rows.insert(rows.end(), chunk.fresh_rows.begin(), chunk.fresh_rows.end());
  }
  rows_ = AllocateShared(memory_, std::max<size_t>(1, rows.size()) * sizeof(int32_t));
  memory_.Upload(rows.data(), rows.size() * sizeof(int32_t), rows_.get());
  const auto* on_device = static_cast<const int32_t*>(rows_.get());
  std::vector<CorrectionChunk> chunks;
  for (size_t i = 0; i < chunks_.size(); ++i) {
    const auto picked = static_cast<int32_t>(chunks_[i].picked.size());
    CorrectionChunk chunk = {.first_position = chunks_[i].first_position, .picked_count = picked};
    for (const SliceView& piece : slices[i]) {
      chunk.piece_tokens.push_back(static_cast<int32_t>(piece.tokens));
    }
    chunk.picked = on_device;
    chunk.fresh_rows = on_device + picked;
    on_device += 2 * picked;
    chunks.push_back(std::move(chunk));
  }
  correction_ = std::make_unique<cuda::Correction>(shape_, std::move(chunks));
  if (correction_->empty()) return;
  results_ = AllocateShared(memory_, correction_->result_bytes());
  workspace_ =
      AllocateShared(memory_, correction_->workspace_bytes(static_cast<int>(layers_at_once_)));
  staging_ = {memory_.AllocateHost(correction_->staging_bytes()),
              [memory = &memory_](void* host) { memory->FreeHost(host); }};
  correction_->Stage({.results = results_.get(),
                      .workspace = workspace_.get(),
                      .staging = staging_.get(),
                      .layers_at_once = static_cast<int>(layers_at_once_)},
                     memory_.stream());
}

void PreparedCorrection::Prepare(int64_t first_layer, std::vector<CorrectedSlices> layers) {
  if (chunks_.empty() || layers.empty()) return;
  const auto count = static_cast<int64_t>(layers.size());
  if (correction_ == nullptr) {
    layers_at_once_ = std::min(kGroup, count);
    Begin(layers[0]);
  }
  if (correction_->empty()) return;
  PrepareTo(first_beside_ + static_cast<int64_t>(beside_.size()));
  if (count == 1) {  // wanted now
    // The groups beside the work use the same workspace.
    for (const auto& [layer, event] : ready_) event.HoldBack(memory_.stream());
    PrepareGroup(first_layer, layers, memory_.stream());
    return;
  }
  Event begun;
  begun.Record(memory_.stream());
  begun.HoldBack(memory_.side_stream());
  beside_ = std::move(layers);
  first_beside_ = next_ = first_layer;
  PrepareTo(first_layer + kFirstGroup);
}

void PreparedCorrection::PrepareTo(int64_t end_layer) {
  end_layer = std::min(end_layer, first_beside_ + static_cast<int64_t>(beside_.size()));
  while (next_ < end_layer) {
    const int64_t count = std::min(layers_at_once_, end_layer - next_);
    PrepareGroup(next_, absl::MakeConstSpan(beside_).subspan(next_ - first_beside_, count),
                 memory_.side_stream());
    next_ += count;
    ready_[next_ - 1].Record(memory_.side_stream());
  }
}

void PreparedCorrection::PrepareGroup(int64_t first_layer, absl::Span<const CorrectedSlices> layers,
                                      cudaStream_t stream) {
  std::vector<Slice> slices;
  for (const CorrectedSlices& layer : layers) {
    for (const std::vector<SliceView>& chunk : layer) {
      for (const SliceView& piece : chunk) slices.push_back(SliceOf(piece, 0));
    }
  }
  correction_->Prepare(static_cast<int>(first_layer), static_cast<int>(layers.size()),
                       slices.data(), stream);
}

void PreparedCorrection::Apply(int64_t layer, Matrix fresh_k, Matrix fresh_v, const LayerKv& kv) {
  if (correction_ == nullptr || correction_->empty()) return;
  PrepareTo(layer + 1);
  const auto group = ready_.lower_bound(layer);
  if (group != ready_.end()) group->second.HoldBack(memory_.stream());
  correction_->Apply(static_cast<int>(layer), Bf16Of(fresh_k), Bf16Of(fresh_v), rope_, ViewOf(kv),
                     memory_.stream());
  // Launching a group takes the host some tenths of a millisecond: the card has this layer's work
  // by now, and the group is done before it is wanted.
  if (next_ <= layer + kGroup) PrepareTo(next_ + kGroup);
}

}  // namespace tessera::cuda
