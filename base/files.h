// Small files that a process reads at its start: certificates, tokens.
#ifndef TESSERA_BASE_FILES_H_
#define TESSERA_BASE_FILES_H_

#include <string>

#include "absl/status/statusor.h"

namespace tessera {

// The bytes of a file of 1 byte to 4 MiB. `what` names it in the error, such as "CA".
// INVALID_ARGUMENT: it cannot be read, is empty, or is larger.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, const char* what);

// The first line of a file, without white space around it. INVALID_ARGUMENT: it cannot be read, or
// that line is not 1 to 4096 printable ASCII characters.
absl::StatusOr<std::string> ReadTokenFile(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_BASE_FILES_H_
