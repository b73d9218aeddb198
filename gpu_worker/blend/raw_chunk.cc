#include "gpu_worker/blend/raw_chunk.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"

namespace tessera {

// Slices are counted layer by layer within a piece.
struct RawChunk::OnDevice {
  OnDevice(DeviceMemory* memory, int64_t bytes, int64_t slices)
      : memory(*memory),
        numbers(memory->Reserve(bytes),
                [memory, bytes](void* numbers) { memory->Release(numbers, bytes); }),
        is_here(slices, false),
        arriving(slices) {}

  std::byte* At(int64_t number) { return static_cast<std::byte*>(numbers.get()) + number * kBytes; }

  DeviceMemory& memory;
  const std::shared_ptr<void> numbers;
  std::vector<bool> is_here;                          // or on its way
  std::vector<std::unique_ptr<CopyTicket>> arriving;  // those that nobody waited for yet
  absl::Mutex mutex;
  std::unique_ptr<CopyTicket> computed ABSL_GUARDED_BY(mutex);  // behind the pieces computed here
  std::set<int64_t> only_here ABSL_GUARDED_BY(mutex);  // of these, the ones not brought back yet
};

RawChunk::RawChunk(const ModelConfig& model, int64_t tokens, int64_t tokens_per_piece,
                   DeviceMemory& memory)
    : tokens_(tokens),
      tokens_per_piece_(tokens_per_piece),
      layers_(model.layers),
      width_(model.kv_heads * model.head_dim),
      host_(static_cast<std::byte*>(memory.AllocateHost(bytes())),
            [&memory](std::byte* host) { memory.FreeHost(host); }) {
  if (!memory.is_host()) {
    on_device_ = std::make_shared<OnDevice>(&memory, bytes(), pieces() * layers_);
  }
}

const std::byte* RawChunk::PieceMemory(int64_t piece) const {
  std::byte* const to = host_.get() + PieceStart(piece) * kBytes;
  if (on_device_ == nullptr) return to;
  OnDevice& device = *on_device_;
  const absl::MutexLock lock(&device.mutex);
  if (device.only_here.erase(piece) > 0) {
    device.memory.DownloadBehind(device.computed.get(), device.At(PieceStart(piece)),
                                 PieceBytes(piece), to);
  }
  return to;
}

void RawChunk::Prefetch(int64_t piece, int64_t layer) const {
  if (on_device_ == nullptr) return;
  OnDevice& device = *on_device_;
  const int64_t slice = piece * layers_ + layer;
  if (device.is_here[slice]) return;
  const int64_t at = SliceStart(piece, layer);
  device.arriving[slice] =
      device.memory.BeginUpload(host_.get() + at * kBytes, SliceBytes(piece), device.At(at));
  device.is_here[slice] = true;
}

SliceView RawChunk::Slice(int64_t piece, int64_t layer) const {
  if (on_device_ != nullptr) {
    Prefetch(piece, layer);
    std::unique_ptr<CopyTicket>& ticket = on_device_->arriving[piece * layers_ + layer];
    if (ticket != nullptr) on_device_->memory.Await(*ticket);
    ticket = nullptr;
  }
  const Bf16* k = Numbers(piece, layer);
  const int64_t tokens = PieceTokens(piece);
  return {k, k + tokens * width_, tokens};
}

Bf16* RawChunk::SliceK(int64_t piece, int64_t layer) {
  if (on_device_ != nullptr) on_device_->is_here[piece * layers_ + layer] = true;
  return Numbers(piece, layer);
}

void RawChunk::PieceComputed(int64_t piece) {
  if (on_device_ == nullptr) return;
  OnDevice& device = *on_device_;
  const absl::MutexLock lock(&device.mutex);
  device.only_here.insert(piece);
  device.computed = device.memory.Mark();
}

Bf16* RawChunk::Numbers(int64_t piece, int64_t layer) const {
  const int64_t at = SliceStart(piece, layer);
  return reinterpret_cast<Bf16*>(on_device_ == nullptr ? host_.get() + at * kBytes
                                                       : on_device_->At(at));
}

}  // namespace tessera
