// How tokens are drawn: the parameters that reach the worker as they are.
#ifndef TESSERA_GATEWAY_OPENAI_SAMPLING_H_
#define TESSERA_GATEWAY_OPENAI_SAMPLING_H_

#include "gateway/openai/fields.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

// Reads temperature, top_p, top_k, min_p, seed, the penalties, logit_bias and min_tokens; absent
// ones get OpenAI's defaults. Errors are left in `fields`.
void ReadSampling(Fields& fields, worker::v1::SamplingOptions* sampling);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_SAMPLING_H_
