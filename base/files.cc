#include "base/files.h"

#include <algorithm>
#include <cstddef>
#include <fstream>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kMostFileBytes = size_t{4} << 20;
constexpr size_t kMostTokenBytes = 4096;

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, const char* what) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(kMostFileBytes + 1, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<size_t>(file.gcount()));
  if (bytes.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " file ", path, " cannot be read, or is empty"));
  }
  if (bytes.size() > kMostFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(what, " file ", path, " is too large"));
  }
  return bytes;
}

absl::StatusOr<std::string> ReadTokenFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadSmallFile(path, "token"));
  const std::string token(
      absl::StripAsciiWhitespace(absl::string_view(bytes).substr(0, bytes.find('\n'))));
  const bool printable = std::all_of(token.begin(), token.end(), absl::ascii_isprint);
  if (token.empty() || token.size() > kMostTokenBytes || !printable) {
    return absl::InvalidArgumentError(
        absl::StrCat("the first line of token file ", path, " must be a token: 1 to ",
                     kMostTokenBytes, " printable ASCII characters"));
  }
  return token;
}

}  // namespace tessera
