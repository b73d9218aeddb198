#include "gpu_worker/blend/raw_chunk.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "glog/logging.h"

namespace tessera {

namespace {

std::shared_ptr<std::byte> AllocateHost(DeviceMemory& memory, int64_t bytes) {
  return {static_cast<std::byte*>(memory.AllocateHost(bytes)),
          [&memory](std::byte* host) { memory.FreeHost(host); }};
}

}  // namespace

// Slices are counted layer by layer within a piece.
struct RawChunk::OnDevice {
  OnDevice(DeviceMemory* memory, int64_t bytes, int64_t slices)
      : memory(*memory),
        numbers(memory->Reserve(bytes),
                [memory, bytes](void* numbers) { memory->Release(numbers, bytes); }),
        is_here(slices, false),
        arriving(slices) {}
  ~OnDevice() { AwaitBrought(); }

  std::byte* At(int64_t number) { return static_cast<std::byte*>(numbers.get()) + number * kBytes; }

  // Slices that follow each other.
  void Begin(int64_t slice, int64_t count, const std::byte* from, int64_t bytes, int64_t at) {
    newest = memory.BeginUpload(from, bytes, At(at));
    for (int64_t i = slice; i < slice + count; ++i) {
      arriving[i] = newest;
      is_here[i] = true;
    }
  }
  void AwaitBrought() {
    // Copies are done in the order that they were begun in.
    if (newest != nullptr) newest->Wait();
    newest = nullptr;
    owners.clear();
  }

  DeviceMemory& memory;
  const std::shared_ptr<void> numbers;
  std::vector<bool> is_here;                          // or on its way
  std::vector<std::shared_ptr<CopyTicket>> arriving;  // those that the device was not told of yet
  std::shared_ptr<CopyTicket> newest;                 // nobody waited for it yet
  std::set<std::shared_ptr<const void>> owners;       // of what they read
  absl::Mutex mutex;
  std::shared_ptr<std::byte> host ABSL_GUARDED_BY(mutex);       // null until it is needed
  std::unique_ptr<CopyTicket> computed ABSL_GUARDED_BY(mutex);  // behind the pieces computed here
  std::set<int64_t> only_here ABSL_GUARDED_BY(mutex);  // of these, the ones not brought back yet
};

RawChunk::RawChunk(const ModelConfig& model, int64_t tokens, int64_t tokens_per_piece,
                   DeviceMemory& memory)
    : tokens_(tokens),
      tokens_per_piece_(tokens_per_piece),
      layers_(model.layers),
      width_(model.kv_heads * model.head_dim) {
  if (memory.is_host()) {
    host_ = AllocateHost(memory, bytes());
  } else {
    on_device_ = std::make_shared<OnDevice>(&memory, bytes(), pieces() * layers_);
  }
}

std::byte* RawChunk::Host() const {
  if (on_device_ == nullptr) return host_.get();
  const absl::MutexLock lock(&on_device_->mutex);
  if (on_device_->host == nullptr) on_device_->host = AllocateHost(on_device_->memory, bytes());
  return on_device_->host.get();
}

std::byte* RawChunk::PieceMemory(int64_t piece) { return Host() + PieceStart(piece) * kBytes; }

const std::byte* RawChunk::PieceMemory(int64_t piece) const {
  std::byte* const to = Host() + PieceStart(piece) * kBytes;
  if (on_device_ == nullptr) return to;
  OnDevice& device = *on_device_;
  const absl::MutexLock lock(&device.mutex);
  if (device.only_here.erase(piece) > 0) {
    device.memory.DownloadBehind(device.computed.get(), device.At(PieceStart(piece)),
                                 PieceBytes(piece), to);
  }
  return to;
}

void RawChunk::Bring(int64_t piece, int64_t layer, int64_t layers,
                     absl::Span<const std::byte> bytes, std::shared_ptr<const void> owner) const {
  CHECK(on_device_ != nullptr && layer + layers <= layers_);
  const int64_t count = layers * SliceBytes(piece);
  CHECK_EQ(static_cast<int64_t>(bytes.size()), count);
  on_device_->owners.insert(std::move(owner));
  on_device_->Begin(piece * layers_ + layer, layers, bytes.data(), count, SliceStart(piece, layer));
}

void RawChunk::AwaitBrought() const {
  if (on_device_ != nullptr) on_device_->AwaitBrought();
}

// Holds work issued from now on back until the slice is there; what the program has of it alone is
// brought first.
void RawChunk::AwaitOnDevice(int64_t piece, int64_t layer) const {
  OnDevice& device = *on_device_;
  const int64_t slice = piece * layers_ + layer;
  if (!device.is_here[slice]) {
    const int64_t at = SliceStart(piece, layer);
    device.Begin(slice, 1, Host() + at * kBytes, SliceBytes(piece), at);
  }
  if (device.arriving[slice] != nullptr) device.memory.Await(*device.arriving[slice]);
  device.arriving[slice] = nullptr;
}

SliceView RawChunk::Slice(int64_t piece, int64_t layer) const {
  if (on_device_ != nullptr) AwaitOnDevice(piece, layer);
  const Bf16* k = Numbers(piece, layer);
  const int64_t tokens = PieceTokens(piece);
  return {k, k + tokens * width_, tokens};
}

Bf16* RawChunk::SliceK(int64_t piece, int64_t layer) {
  if (on_device_ != nullptr) {
    on_device_->is_here[piece * layers_ + layer] = true;
    // Not before what is still on its way there.
    AwaitOnDevice(piece, layer);
  }
  return Numbers(piece, layer);
}

void RawChunk::PieceComputed(int64_t piece) {
  if (on_device_ == nullptr) return;
  OnDevice& device = *on_device_;
  Host();  // here, where a lack of it is the request's
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
