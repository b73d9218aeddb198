#include "gateway/access/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMinKeyBytes = 8;
constexpr size_t kMaxKeyBytes = 512;
// A minute's worth has to fit a double exactly.
constexpr uint64_t kMaxLimit = uint64_t{1} << 50;
constexpr absl::string_view kScheme = "bearer ";

bool IsName(const std::string& word) {
  constexpr absl::string_view kMarks = "-_.";
  return word.size() <= kMaxNameBytes && std::all_of(word.begin(), word.end(), [&](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  kMarks.find(c) != absl::string_view::npos;
         });
}

bool IsKey(const std::string& word) {
  return word.size() >= kMinKeyBytes && word.size() <= kMaxKeyBytes &&
         std::all_of(word.begin(), word.end(),
                     [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); });
}

std::vector<std::string> WordsOf(absl::string_view line) {
  std::vector<std::string> words;
  for (const absl::string_view word :
       absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty())) {
    if (word.front() == '#') break;
    words.emplace_back(word);
  }
  return words;
}

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Load(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, "API keys"));
  struct stat status = {};
  if (stat(path.c_str(), &status) == 0 && (status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    LOG_EVENT(kWarning, "api_keys_readable")
        .With("file", path)
        .With("mode", absl::StrFormat("%04o", status.st_mode & 0777))
        .With("msg", "others of this machine may read the keys: chmod 600");
  }
  return Parse(text);
}

absl::StatusOr<ApiKeys> ApiKeys::Parse(std::string_view text) {
  ApiKeys keys;
  size_t number = 0;
  for (const absl::string_view line :
       absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++number;
    const std::vector<std::string> words = WordsOf(line);
    if (words.empty()) continue;
    const absl::Status added = keys.Add(words);
    if (!added.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("API keys, line ", number, ": ", added.message()));
    }
  }
  if (keys.keys_.empty()) {
    return absl::InvalidArgumentError("API keys: the file has no key; add a line 'name key'");
  }
  return keys;
}

absl::Status ApiKeys::Add(const std::vector<std::string>& words) {
  if (words.size() < 2 || words.size() > 4) {
    return absl::InvalidArgumentError(
        "must be 'name key [requests_per_minute [tokens_per_minute]]'");
  }
  if (keys_.size() == kMaxKeys) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxKeys, " keys"));
  }
  if (!IsName(words[0])) {
    return absl::InvalidArgumentError("a name has 1 to 64 letters, digits and any of '-_.'");
  }
  if (!IsKey(words[1])) {
    return absl::InvalidArgumentError("a key has 8 to 512 printable characters");
  }
  Key key = {words[0], DigestOf(words[1]), {}};
  uint64_t* const limits[] = {&key.limits.requests, &key.limits.tokens};
  for (size_t i = 2; i < words.size(); ++i) {
    if (!absl::SimpleAtoi(words[i], limits[i - 2]) || *limits[i - 2] > kMaxLimit) {
      return absl::InvalidArgumentError("a limit is a whole number a minute; 0: none");
    }
  }
  for (const Key& other : keys_) {
    if (other.name == key.name) return absl::InvalidArgumentError("the name is taken");
    if (other.digest == key.digest) {
      return absl::InvalidArgumentError(absl::StrCat("the key is that of ", other.name));
    }
  }
  keys_.push_back(std::move(key));
  return absl::OkStatus();
}

ApiKeys::Digest ApiKeys::DigestOf(std::string_view key) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

std::optional<size_t> ApiKeys::Find(std::string_view authorization) const {
  const absl::string_view header(authorization.data(), authorization.size());
  if (!absl::StartsWithIgnoreCase(header, kScheme)) return std::nullopt;
  const absl::string_view shown = absl::StripAsciiWhitespace(header.substr(kScheme.size()));
  const Digest digest = DigestOf({shown.data(), shown.size()});
  // No early end: how long this takes must not tell how close a guess was, or whose it was.
  std::optional<size_t> found;
  for (size_t i = 0; i < keys_.size(); ++i) {
    const bool equal = CRYPTO_memcmp(digest.data(), keys_[i].digest.data(), digest.size()) == 0;
    found = equal ? std::optional<size_t>(i) : found;
  }
  return found;
}

}  // namespace tessera
