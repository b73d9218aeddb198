// What must hold before a worker may blend.
#ifndef TESSERA_GPU_WORKER_BLEND_SELF_TEST_H_
#define TESSERA_GPU_WORKER_BLEND_SELF_TEST_H_

#include "absl/status/status.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

struct SelfTestReport {
  double full_blend_kl = 0;      // nats: ratio 1.0 against a plain full prefill
  double seconds_per_token = 0;  // of the plain full prefill
};

// On a short made-up prompt: (1) a chunk placed at another position attends as if it had been
// computed there (the products of rotated Q and K depend on distance alone), (2) a blend that
// recomputes every row gives the logits of a plain full prefill. FAILED_PRECONDITION says which
// does not hold and by how much.
absl::StatusOr<SelfTestReport> RunSelfTest(const Decoder& decoder, const BlendConfig& config);

// KL(p || q) of two rows of logits, in nats.
double KlOfLogits(absl::Span<const float> p, absl::Span<const float> q);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_SELF_TEST_H_
