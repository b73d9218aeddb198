// A model folder small enough to write in a test: every byte is a token.
#ifndef TESSERA_TESTS_GATEWAY_TEST_MODEL_H_
#define TESSERA_TESTS_GATEWAY_TEST_MODEL_H_

#include <cstdint>
#include <string>

namespace tessera {

// Ids 0 to 255 are the bytes in the order of the byte-level alphabet; then the two marks of the
// chat template.
inline constexpr uint32_t kTestImStart = 256;
inline constexpr uint32_t kTestImEnd = 257;  // ends an answer
inline constexpr uint32_t kTestVocabSize = 258;

// Writes tokenizer.json and tokenizer_config.json into `folder`, which must exist. Rendered, a chat
// is "<|im_start|>role\ncontent<|im_end|>\n" for every message, then "<|im_start|>assistant\n".
void WriteTestModel(const std::string& folder);

}  // namespace tessera

#endif  // TESSERA_TESTS_GATEWAY_TEST_MODEL_H_
