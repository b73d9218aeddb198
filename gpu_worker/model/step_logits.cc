#include "gpu_worker/model/step_logits.h"

#include <algorithm>
#include <utility>

#include "glog/logging.h"

namespace tessera {

absl::Span<const float> LogitsRow::Read(int64_t first, int64_t count) const {
  CHECK_LE(first, vocab_);
  count = std::min(count, vocab_ - first);
  const float* from = logits_ + first;
  if (memory_ != nullptr) {
    memory_->Download(from, count * sizeof(float), room_);
    from = room_;
  }
  return {from, static_cast<size_t>(count)};
}

StepLogits::StepLogits(DeviceMemory& memory, int64_t rows, int64_t vocab)
    : memory_(memory), logits_(memory, DType::kF32, rows, vocab) {
  if (memory.is_host()) return;
  temperatures_ = Activations(memory, DType::kF32, 1, rows);
  numbers_ = AllocateShared(memory, LogitsSummaries(nullptr, rows, vocab).Bytes());
  summaries_ = LogitsSummaries(numbers_.get(), rows, vocab);
}

void StepLogits::SetTemperatures(std::vector<float> temperatures) {
  CHECK_EQ(static_cast<int64_t>(temperatures.size()), logits_->rows);
  if (memory_.is_host()) return;
  for (float& t : temperatures) t = t > 0 ? t : 1;
  memory_.Upload(temperatures.data(), temperatures.size() * sizeof(float), temperatures_->memory);
}

void StepLogits::Summarize(Ops& ops) const {
  if (memory_.is_host()) return;
  ops.SummarizeLogits(logits_, temperatures_->data(), summaries_);
}

DecodedLogits::DecodedLogits(const StepLogits& step, std::vector<int32_t> wanted)
    : memory_(step.memory_), logits_(step.logits_), wanted_(std::move(wanted)) {
  if (memory_.is_host()) return;
  const size_t bytes = step.summaries_.Bytes();
  DeviceMemory& memory = memory_;
  numbers_ = {memory.AllocateHost(bytes), [&memory](void* numbers) { memory.FreeHost(numbers); }};
  summaries_ = LogitsSummaries(numbers_.get(), logits_->rows, logits_->cols);
  room_ = Activations::ForCopies(memory_, 1, logits_->cols);
  memory_.Download(step.numbers_.get(), bytes, numbers_.get());
}

LogitsRow DecodedLogits::Row(int64_t i) const {
  const auto row =
      absl::MakeConstSpan(logits_->Row(wanted_[i]), static_cast<size_t>(logits_->cols));
  if (memory_.is_host()) return LogitsRow(row);
  return LogitsRow(row, &memory_, room_->data(), summaries_.Of(wanted_[i]));
}

}  // namespace tessera
