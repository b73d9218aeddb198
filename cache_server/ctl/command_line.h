// A command line taken apart: absl's flags, and the words between them.
#ifndef TESSERA_CACHE_SERVER_CTL_COMMAND_LINE_H_
#define TESSERA_CACHE_SERVER_CTL_COMMAND_LINE_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::ctl {

struct CommandLine {
  std::vector<std::string> words;  // what is no flag, in order
  // Name and value, not set yet; for a flag of bool without a value, "true" or "false".
  std::vector<std::pair<std::string, std::string>> flags;
  bool help = false;  // --help or -h

  bool Has(const std::string& flag) const;
};

// Forms: --name=value, --name value, --name and --noname of a bool; after "--" all is words, as is
// "-". absl::ParseCommandLine is not used because it ends the process with exit code 1 over a flag
// it does not know, and because here each subcommand has flags of its own.
// INVALID_ARGUMENT: no such flag, or no value where one is needed.
absl::StatusOr<CommandLine> SplitCommandLine(const std::vector<std::string>& arguments);

// Gives absl's flags their values. INVALID_ARGUMENT: one that is not in `allowed`, or a value that
// its flag does not take.
absl::Status SetFlags(const CommandLine& line, const std::vector<std::string>& allowed);

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_COMMAND_LINE_H_
