// Requests as shapes that the cost model knows.
#ifndef TESSERA_GPU_WORKER_BLEND_PROMPT_COST_H_
#define TESSERA_GPU_WORKER_BLEND_PROMPT_COST_H_

#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/cost_shape.h"
#include "gpu_worker/model/config.h"

namespace tessera {

// The request, while nothing is known to be cached.
PromptShape ShapeOf(const BlendRequest& request, const BlendConfig& config,
                    const ModelConfig& model);

// The same where all of every chunk is cached, and a fetch away.
PromptShape AllCached(PromptShape shape);

// The request in hindsight: what was cached, and that it is here.
PromptShape ShapeOf(const BlendRequest& request, const BlendConfig& config,
                    const ModelConfig& model, const Prefilled& prefilled);

// What the decision makes of what the cache has, all of which is in the shape.
PullChoice PullsOf(const CostDecision& decision, const PromptShape& shape);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_PROMPT_COST_H_
