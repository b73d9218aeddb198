// Keys as people name them.
#ifndef TESSERA_CACHE_SERVER_CTL_KEY_WORDS_H_
#define TESSERA_CACHE_SERVER_CTL_KEY_WORDS_H_

#include <istream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache_server/chunk/key.h"
#include "cache_server/ctl/connection.h"

namespace tessera::ctl {

inline constexpr size_t kLeastPrefixDigits = 6;
// Most keys that one command takes.
inline constexpr size_t kMostKeyWords = 1000000;

// Puts the words that `in` holds, one a line, in the place of "-". Empty lines are passed over.
// INVALID_ARGUMENT: "-" twice, or too many keys.
absl::StatusOr<std::vector<std::string>> ReadKeyWords(const std::vector<std::string>& words,
                                                      std::istream& in);

// INVALID_ARGUMENT unless `word` is a key (64 hexadecimal digits), or its first 6 or more.
absl::Status CheckKeyWord(const std::string& word);

// The keys that checked words name, in their order, each once. Shortened keys are looked up among
// all entries of the server. INVALID_ARGUMENT: a word that is no key, or several entries start with
// it; NOT_FOUND: no entry does.
absl::StatusOr<std::vector<ChunkKey>> ResolveKeys(const Connection& connection,
                                                  const std::vector<std::string>& words);

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_KEY_WORDS_H_
