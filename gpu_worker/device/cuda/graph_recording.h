// A decode step that is recorded once and replayed. Private to the operations.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_GRAPH_RECORDING_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_GRAPH_RECORDING_H_

#include <cuda_runtime_api.h>

#include "absl/cleanup/cleanup.h"
#include "absl/functional/function_ref.h"
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/cuda_memory.h"
#include "gpu_worker/device/ops.h"

namespace tessera::cuda {

// A step as a CUDA graph, with the memory that its kernels use.
class GraphRecording final : public Recording {
 public:
  explicit GraphRecording(CudaMemory* memory) : memory_(*memory) {}
  ~GraphRecording() override {
    if (graph_ != nullptr) {
      memory_.Synchronize();
      cudaGraphExecDestroy(graph_);
    }
    memory_.TakeBack(&kept_);
  }

  void Record(absl::FunctionRef<void()> work) {
    memory_.BeginKeeping(&kept_);
    const absl::Cleanup end = [this] { memory_.EndKeeping(); };  // also when there is no memory
    work();  // once as it is: it allocates, and a kernel's first launch loads it
    const cudaStream_t stream = memory_.stream();
    cudaGraph_t graph = nullptr;
    CUDA_OR_DIE("capture", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    work();
    CUDA_OR_DIE("capture", cudaStreamEndCapture(stream, &graph));
    CUDA_OR_DIE("graph", cudaGraphInstantiate(&graph_, graph, 0));
    CUDA_OR_DIE("graph", cudaGraphDestroy(graph));
  }
  void Replay() { CUDA_OR_DIE("graph launch", cudaGraphLaunch(graph_, memory_.stream())); }

 private:
  CudaMemory& memory_;
  FreeBlocks kept_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_GRAPH_RECORDING_H_
