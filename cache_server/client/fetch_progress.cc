#include "cache_server/client/fetch_progress.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cache_server/chunk/checksum.h"
#include "glog/logging.h"

namespace tessera {
namespace {

bool IsUsable(const HeaderEntry& entry, const FetchTarget& target) {
  return entry.found && entry.layers == target.layers && entry.slice_bytes == target.slice_bytes;
}

}  // namespace

FetchProgress::FetchProgress(std::vector<FetchTarget> targets, std::function<void()> on_progress,
                             ReadMemory* read_memory)
    : targets_(std::move(targets)),
      on_progress_(std::move(on_progress)),
      read_memory_(read_memory),
      filling_(targets_.size()),
      states_(targets_.size()) {}

void FetchProgress::SetHeader(size_t first, const std::vector<HeaderEntry>& entries) {
  CHECK_LE(first + entries.size(), targets_.size());
  // Without the lock: readers who only ask do not wait for it.
  std::vector<std::shared_ptr<std::byte>> own_memory = AllocateFor(first, entries);
  absl::ReleasableMutexLock lock(&mutex_);
  for (size_t i = 0; i < entries.size(); ++i) {
    const HeaderEntry& entry = entries[i];
    const FetchTarget& target = targets_[first + i];
    State& state = states_[first + i];
    if (!IsUsable(entry, target)) {
      // Also one that was found before: a reader that waits for the rest of it waits no longer.
      state.closed = true;
      state.tier.clear();
    } else if (!state.closed && state.tier.empty()) {
      state.tier = entry.tier.empty() ? "unnamed" : entry.tier;
      state.memory = target.memory;
      if (state.memory == nullptr) {
        state.own_memory = std::move(own_memory[i]);
        state.memory = state.own_memory.get();
      }
    }
    state.has_header = true;
  }
  lock.Release();
  Tell();
}

std::vector<std::shared_ptr<std::byte>> FetchProgress::AllocateFor(
    size_t first, const std::vector<HeaderEntry>& entries) const {
  std::vector<std::shared_ptr<std::byte>> memory(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const FetchTarget& target = targets_[first + i];
    if (target.memory != nullptr || !IsUsable(entries[i], target) || HasMemory(first + i)) continue;
    const size_t bytes = target.layers * target.slice_bytes;
    if (read_memory_ != nullptr) {
      memory[i] = read_memory_->Allocate(bytes);
    } else {
      memory[i] = {new std::byte[bytes], std::default_delete<std::byte[]>()};
    }
  }
  return memory;
}

bool FetchProgress::HasMemory(size_t target) const {
  absl::MutexLock lock(&mutex_);
  return states_[target].memory != nullptr;
}

absl::Status FetchProgress::CheckPart(size_t target, const SlicePart& part) const {
  const Filling& filling = filling_[target];
  if (part.layer != filling.layer || part.layer >= targets_[target].layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("slice of layer ", part.layer, ", not ", filling.layer));
  }
  if (part.offset != filling.offset || part.payload_bytes == 0 ||
      part.payload_bytes > targets_[target].slice_bytes - filling.offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("part of ", part.payload_bytes, " bytes at ", part.offset));
  }
  return absl::OkStatus();
}

absl::Status FetchProgress::AddPart(size_t target, const ReceivedMessage& message,
                                    absl::FunctionRef<void(uint64_t)> copied) {
  const SlicePart& part = message.part();
  if (target >= targets_.size()) return absl::InvalidArgumentError("part of an unknown target");
  std::byte* memory = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (!states_[target].has_header) return absl::InvalidArgumentError("part before the header");
    if (states_[target].closed) return absl::OkStatus();
    memory = states_[target].memory;
  }
  absl::Status status = CheckPart(target, part);
  if (!status.ok()) {
    Close(target, target + 1);
    return status;
  }
  const FetchTarget& wanted = targets_[target];
  std::byte* slice = memory + wanted.slice_bytes * part.layer;
  message.CopyPayload(slice + part.offset);
  copied(part.payload_bytes);
  Filling& filling = filling_[target];
  filling.offset += part.payload_bytes;
  if (filling.offset < wanted.slice_bytes) return absl::OkStatus();
  if (SliceChecksum({slice, wanted.slice_bytes}) != part.checksum) {
    Close(target, target + 1);
    return absl::DataLossError(
        absl::StrCat("wrong checksum: layer ", part.layer, " of ", wanted.key.ToHex()));
  }
  filling = {.layer = part.layer + 1, .offset = 0};
  {
    absl::MutexLock lock(&mutex_);
    if (!states_[target].closed) states_[target].ready_layers = part.layer + 1;
  }
  Tell();
  return absl::OkStatus();
}

void FetchProgress::Close(size_t first, size_t end) {
  {
    absl::MutexLock lock(&mutex_);
    for (size_t i = first; i < end; ++i) states_[i].closed = true;
  }
  Tell();
}

void FetchProgress::CloseAfterFirstMiss() {
  absl::ReleasableMutexLock lock(&mutex_);
  bool missed = false;
  for (State& state : states_) {
    if (missed) {
      state.closed = true;
      state.tier.clear();
    }
    missed = missed || state.tier.empty();
  }
  lock.Release();
  Tell();
}

bool FetchProgress::IsComplete(size_t first, size_t end) const {
  absl::MutexLock lock(&mutex_);
  for (size_t i = first; i < end; ++i) {
    if (!states_[i].has_header) return false;
    if (!states_[i].tier.empty() && states_[i].ready_layers < targets_[i].layers) return false;
  }
  return true;
}

bool FetchProgress::WaitForHeader(size_t first, size_t end, absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  auto arrived = [this, first, end]()
                     ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return HeaderIsHere(first, end); };
  return mutex_.AwaitWithDeadline(absl::Condition(&arrived), deadline);
}

bool FetchProgress::HasHeader(size_t first, size_t end) const {
  absl::MutexLock lock(&mutex_);
  return HeaderIsHere(first, end);
}

bool FetchProgress::IsDecided(size_t target, uint32_t layer) const {
  CHECK_LT(target, targets_.size());
  absl::MutexLock lock(&mutex_);
  return SliceIsDecided(target, layer);
}

std::vector<std::string> FetchProgress::Tiers() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> tiers;
  tiers.reserve(states_.size());
  for (const State& state : states_) tiers.push_back(state.tier);
  return tiers;
}

bool FetchProgress::WaitForSlice(size_t target, uint32_t layer, absl::Time deadline) {
  CHECK_LT(target, targets_.size());
  absl::MutexLock lock(&mutex_);
  State& state = states_[target];
  auto decided = [this, target, layer]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return SliceIsDecided(target, layer);
  };
  if (!mutex_.AwaitWithDeadline(absl::Condition(&decided), deadline)) state.closed = true;
  return state.ready_layers > layer;
}

uint32_t FetchProgress::ReadyLayers(size_t target) const {
  absl::MutexLock lock(&mutex_);
  return states_[target].ready_layers;
}

absl::Span<const std::byte> FetchProgress::Slices(size_t target, uint32_t first_layer,
                                                  uint32_t layers) const {
  absl::MutexLock lock(&mutex_);
  const State& state = states_[target];
  CHECK_LE(first_layer + layers, state.ready_layers) << "a slice that was not waited for";
  const uint64_t slice_bytes = targets_[target].slice_bytes;
  return {state.memory + first_layer * slice_bytes, layers * slice_bytes};
}

}  // namespace tessera
