// A byte-level tokenizer.json small enough to check by hand, and folders to load it from.
#ifndef TESSERA_TESTS_GATEWAY_TEXT_TINY_TOKENIZER_H_
#define TESSERA_TESTS_GATEWAY_TEXT_TINY_TOKENIZER_H_

#include <boost/json.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/text/tokenizer.h"

namespace tessera {

// Ids of the tiny tokenizer: a byte's id is its value; then these.
inline constexpr uint32_t kHe = 256;        // "he"
inline constexpr uint32_t kLl = 257;        // "ll"
inline constexpr uint32_t kHell = 258;      // "hell"
inline constexpr uint32_t kHello = 259;     // "hello"
inline constexpr uint32_t kSpaceW = 260;    // " w"
inline constexpr uint32_t kTwoLines = 261;  // "\n\n"
inline constexpr uint32_t kStart = 262;     // <|start|>, special
inline constexpr uint32_t kEnd = 263;       // <|end|>, special
inline constexpr uint32_t kThink = 264;     // <think>, added but not special
inline constexpr uint32_t kTinySize = 265;

// The file as JSON: GPT-2's pre-tokenizer, no normalizer.
boost::json::object TinyTokenizerJson();

// A new folder in the test's temporary directory with these files.
std::string MakeModelFolder(const std::vector<std::pair<std::string, std::string>>& files);

// A folder with this tokenizer.json only, loaded.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJson(const boost::json::object& json);

// The tiny tokenizer; ends the test when it does not load.
std::unique_ptr<Tokenizer> TinyTokenizer();

}  // namespace tessera

#endif  // TESSERA_TESTS_GATEWAY_TEXT_TINY_TOKENIZER_H_
