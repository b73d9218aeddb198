// The logits of a decode step on their way from a device to a sampler.
#ifndef TESSERA_GPU_WORKER_MODEL_STEP_LOGITS_H_
#define TESSERA_GPU_WORKER_MODEL_STEP_LOGITS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "gpu_worker/device/logits_summary.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/activations.h"

namespace tessera {

// One row of logits. A view.
class LogitsRow {
 public:
  // In the program's memory.
  explicit LogitsRow(absl::Span<const float> logits)
      : logits_(logits.data()), vocab_(static_cast<int64_t>(logits.size())) {}
  // In the memory of a device, from which what is read is brought to `room`, as long as the row.
  LogitsRow(absl::Span<const float> on_device, DeviceMemory* memory, float* room,
            const LogitsSummary& summary)
      : logits_(on_device.data()),
        vocab_(static_cast<int64_t>(on_device.size())),
        memory_(memory),
        room_(room),
        summary_(summary) {}

  // None: all is at hand.
  const std::optional<LogitsSummary>& summary() const { return summary_; }
  // Logits first .. first + count, or to the end if there are fewer; until the next call, for this
  // row or another one of its step.
  absl::Span<const float> Read(int64_t first, int64_t count) const;
  absl::Span<const float> All() const { return Read(0, vocab_); }

 private:
  const float* logits_;
  int64_t vocab_;
  DeviceMemory* memory_ = nullptr;
  float* room_ = nullptr;
  std::optional<LogitsSummary> summary_;
};

// Where a step of so many rows leaves its logits and, on a device with memory of its own, their
// summaries: in memory that stays, so that the step can be replayed.
class StepLogits {
 public:
  StepLogits(DeviceMemory& memory, int64_t rows, int64_t vocab);

  const Activations& logits() const { return logits_; }
  // One per row; 0 stands for a row that needs no masses at a temperature.
  void SetTemperatures(std::vector<float> temperatures);
  // To be issued behind what writes the logits.
  void Summarize(Ops& ops) const;

 private:
  friend class DecodedLogits;

  DeviceMemory& memory_;
  const Activations logits_;
  Activations temperatures_;
  std::shared_ptr<void> numbers_;  // of summaries_
  LogitsSummaries summaries_;
};

// The rows of a step that somebody wants to see, until the next step.
class DecodedLogits {
 public:
  DecodedLogits(const StepLogits& step, std::vector<int32_t> wanted);

  int64_t rows() const { return static_cast<int64_t>(wanted_.size()); }
  LogitsRow Row(int64_t i) const;

 private:
  DeviceMemory& memory_;
  const Activations logits_;
  const std::vector<int32_t> wanted_;  // their places in logits_
  // On the program's side of a device's memory.
  std::shared_ptr<void> numbers_;
  LogitsSummaries summaries_;
  Activations room_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_STEP_LOGITS_H_
