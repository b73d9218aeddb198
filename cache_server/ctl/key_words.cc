#include "cache_server/ctl/key_words.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera::ctl {
namespace {

constexpr size_t kKeyDigits = 64;

ChunkKey KeyFromDigits(const std::string& digits) {
  const absl::StatusOr<ChunkKey> key = ChunkKey::FromBytes(absl::HexStringToBytes(digits));
  CHECK(key.ok()) << digits;
  return *key;
}

// Finds out which entry each shortened key means.
class Prefixes {
 public:
  void Add(const std::string& prefix) {
    entries_[prefix];
    lengths_.insert(prefix.size());
  }
  bool empty() const { return entries_.empty(); }

  // Takes in an entry of the server. INVALID_ARGUMENT: another one starts as it does.
  absl::Status See(const ChunkKey& key) {
    const std::string digits = key.ToHex();
    for (const size_t length : lengths_) {
      const auto found = entries_.find(digits.substr(0, length));
      if (found == entries_.end()) continue;
      // An entry may be on two pages, when others came or went in between.
      if (!found->second.empty() && found->second != digits) {
        return absl::InvalidArgumentError(absl::StrCat("several keys start with ", found->first,
                                                       ", among them ", found->second, " and ",
                                                       digits, "; give more digits"));
      }
      found->second = digits;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Find(const std::string& prefix) const {
    const std::string& digits = entries_.at(prefix);
    if (!digits.empty()) return digits;
    return absl::NotFoundError(
        absl::StrCat("no entry's key starts with ", prefix, "; `tessera_ctl ls` shows them"));
  }

 private:
  absl::flat_hash_map<std::string, std::string> entries_;  // empty: none seen yet
  std::set<size_t> lengths_;
};

absl::Status LookUp(const Connection& connection, Prefixes* prefixes) {
  absl::Status status;
  RETURN_IF_ERROR(connection.List({}, [&](const cache::v1::ListResponse& page) {
    for (const cache::v1::Entry& entry : page.entries()) {
      const absl::StatusOr<ChunkKey> key = ChunkKey::FromBytes(entry.key());
      if (status.ok()) status = key.ok() ? prefixes->See(*key) : key.status();
    }
    return status.ok();
  }));
  return status;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadKeyWords(const std::vector<std::string>& words,
                                                      std::istream& in) {
  if (std::count(words.begin(), words.end(), "-") > 1) {
    return absl::InvalidArgumentError("standard input can be read once: give - once");
  }
  std::vector<std::string> all;
  for (const std::string& word : words) {
    if (word != "-") {
      all.push_back(word);
      continue;
    }
    std::string line;
    while (all.size() <= kMostKeyWords && std::getline(in, line)) {
      absl::StripAsciiWhitespace(&line);
      if (!line.empty()) all.push_back(line);
    }
  }
  if (all.size() > kMostKeyWords) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", kMostKeyWords, " keys: give them in several calls"));
  }
  return all;
}

absl::Status CheckKeyWord(const std::string& word) {
  const bool digits = std::all_of(word.begin(), word.end(), absl::ascii_isxdigit);
  if (digits && word.size() >= kLeastPrefixDigits && word.size() <= kKeyDigits) {
    return absl::OkStatus();
  }
  // What comes from a file may be anything.
  return absl::InvalidArgumentError(
      absl::StrCat("'", absl::CHexEscape(word.substr(0, kKeyDigits)), "' is no key: give its ",
                   kKeyDigits, " hexadecimal digits, or the first ", kLeastPrefixDigits,
                   " or more, or - to read keys from standard input"));
}

absl::StatusOr<std::vector<ChunkKey>> ResolveKeys(const Connection& connection,
                                                  const std::vector<std::string>& words) {
  Prefixes prefixes;
  for (const std::string& word : words) {
    RETURN_IF_ERROR(CheckKeyWord(word));
    if (word.size() < kKeyDigits) prefixes.Add(absl::AsciiStrToLower(word));
  }
  if (!prefixes.empty()) RETURN_IF_ERROR(LookUp(connection, &prefixes));
  std::vector<ChunkKey> keys;
  absl::flat_hash_set<ChunkKey> seen;
  for (const std::string& word : words) {
    std::string digits = absl::AsciiStrToLower(word);
    if (digits.size() < kKeyDigits) {
      ASSIGN_OR_RETURN(digits, prefixes.Find(digits));
    }
    const ChunkKey key = KeyFromDigits(digits);
    if (seen.insert(key).second) keys.push_back(key);
  }
  return keys;
}

}  // namespace tessera::ctl
