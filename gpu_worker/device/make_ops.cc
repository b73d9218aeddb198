#include "gpu_worker/device/make_ops.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#ifdef TESSERA_CUDA
#include "gpu_worker/device/cuda/ops_cuda.h"
#endif

namespace tessera {
namespace {

#ifndef TESSERA_CUDA
absl::StatusOr<std::unique_ptr<Ops>> MakeCudaOps(int index) {
  return absl::FailedPreconditionError(
      "this worker was built without CUDA: build it with --config=cuda, or use --device=cpu");
}
#endif

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> MakeOps(const std::string& device, int threads) {
  if (device == "cpu") return MakeCpuOps(threads);
  if (device == "auto") {
    absl::StatusOr<std::unique_ptr<Ops>> cuda = MakeCudaOps(0);
    if (cuda.ok()) return cuda;
    LOG_EVENT(kInfo, "device_chosen").With("device", "cpu").With("why", cuda.status().message());
    return MakeCpuOps(threads);
  }
  absl::string_view index = device;
  int number = 0;
  if (absl::ConsumePrefix(&index, "cuda") &&
      (index.empty() ||
       (absl::ConsumePrefix(&index, ":") && absl::SimpleAtoi(index, &number) && number >= 0))) {
    return MakeCudaOps(number);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--device is '", device, "': use auto, cpu, cuda or cuda:<number>"));
}

}  // namespace tessera
