#include "base/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kMostFileBytes = size_t{4} << 20;
constexpr size_t kMostTokenBytes = 4096;

// False, and why in errno. The bytes are on the disk, so that a rename that survives a loss of
// power has something to name.
bool WriteAll(const std::string& path, absl::string_view bytes) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return false;
  bool ok = true;
  while (ok && !bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written > 0) bytes.remove_prefix(static_cast<size_t>(written));
    ok = written > 0 || (written < 0 && errno == EINTR);
  }
  ok = ok && fsync(file) == 0;
  const int why = errno;
  const bool closed = close(file) == 0;
  if (!ok) errno = why;
  return ok && closed;
}

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
    return absl::InvalidArgumentError(absl::StrCat("the first line of token file ", path,
                                                   " must be a token: 1 to ", kMostTokenBytes,
                                                   " printable ASCII characters"));
  }
  return token;
}

absl::Status WriteSmallFile(const std::string& path, absl::string_view bytes) {
  const std::string unfinished = absl::StrCat(path, ".", getpid());
  if (WriteAll(unfinished, bytes) && std::rename(unfinished.c_str(), path.c_str()) == 0) {
    return absl::OkStatus();
  }
  const std::string why = std::strerror(errno);
  std::remove(unfinished.c_str());
  return absl::UnavailableError(
      absl::StrCat("cannot write ", path, " (", why, "): check the folder's rights and room"));
}

}  // namespace tessera
