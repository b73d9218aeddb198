// Logprobs in the forms of the two endpoints.
#ifndef TESSERA_GATEWAY_OPENAI_LOGPROBS_H_
#define TESSERA_GATEWAY_OPENAI_LOGPROBS_H_

#include <span>

#include "boost/json/object.hpp"
#include "gateway/openai/answer.h"
#include "gateway/text/tokenizer.h"

namespace tessera::openai {

// {"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}]}. A token's text has U+FFFD
// where it is half a code point; its bytes are exact.
boost::json::object ChatLogprobs(const Tokenizer& tokenizer, std::span<const ScoredToken> tokens);

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}: arrays of one length. The token
// itself is always among its top_logprobs, which makes one more than were asked for when it was not
// likely enough. Of a prompt's first token there are none: null.
boost::json::object CompletionLogprobs(const Tokenizer& tokenizer,
                                       std::span<const ScoredToken> tokens);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_LOGPROBS_H_
