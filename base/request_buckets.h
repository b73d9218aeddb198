// Buckets of histograms of requests to a language model: vLLM's, so that its dashboards fit, with
// finer ones below, since a hit may take a millisecond.
#ifndef TESSERA_BASE_REQUEST_BUCKETS_H_
#define TESSERA_BASE_REQUEST_BUCKETS_H_

#include <vector>

namespace tessera {

// Seconds to the first token.
const std::vector<double>& FirstTokenBuckets();
// Seconds from one token to the next.
const std::vector<double>& NextTokenBuckets();
// Seconds of a whole request, or of a stage of it.
const std::vector<double>& RequestBuckets();
// Tokens of a request.
const std::vector<double>& TokenBuckets();

}  // namespace tessera

#endif  // TESSERA_BASE_REQUEST_BUCKETS_H_
