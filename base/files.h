// Small files that a process reads at its start: certificates, tokens, what an earlier start found.
#ifndef TESSERA_BASE_FILES_H_
#define TESSERA_BASE_FILES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tessera {

// The bytes of a file of 1 byte to 4 MiB. `what` names it in the error, such as "CA".
// INVALID_ARGUMENT: it cannot be read, is empty, or is larger.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, const char* what);

// The first line of a file, without white space around it. INVALID_ARGUMENT: it cannot be read, or
// that line is not 1 to 4096 printable ASCII characters.
absl::StatusOr<std::string> ReadTokenFile(const std::string& path);

// Puts a file of these bytes at `path`, in the place of one that is there: as a whole, through a
// file beside it, or not at all. UNAVAILABLE: it cannot be written there; the message says why.
absl::Status WriteSmallFile(const std::string& path, absl::string_view bytes);

}  // namespace tessera

#endif  // TESSERA_BASE_FILES_H_
