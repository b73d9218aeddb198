// Prompts to calibrate with, as token ids.
#ifndef TESSERA_GPU_WORKER_CALIBRATE_TOKEN_CASES_H_
#define TESSERA_GPU_WORKER_CALIBRATE_TOKEN_CASES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/model/config.h"

namespace tessera {

// The segments of a prompt: lead, chunks, suffix; at least these three, none empty.
using TokenCase = std::vector<std::vector<uint32_t>>;

// The cases of a file of JSON lines, each {"segments": [[ids], ...]}. INVALID_ARGUMENT names the
// line and says what to change: an id that `model` does not have, a prompt longer than most_tokens,
// a file of texts (with the command that makes ids of them, for the model in model_folder).
absl::StatusOr<std::vector<TokenCase>> ReadTokenCases(const std::string& path,
                                                      const ModelConfig& model,
                                                      const std::string& model_folder,
                                                      int64_t most_tokens);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_CALIBRATE_TOKEN_CASES_H_
