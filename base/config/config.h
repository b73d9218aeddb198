// A program's configuration: from its defaults, a YAML file, the environment and the command line,
// each of which goes over the ones before it.
//
// The environment has every option under ProgramOf(...).environment() and its name in capitals, and
// LMCache's names for some, which go over the YAML file but under ours.
#ifndef TESSERA_BASE_CONFIG_CONFIG_H_
#define TESSERA_BASE_CONFIG_CONFIG_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace tessera::config {

struct ConfigInput {
  std::vector<std::string> arguments;    // behind the program's name
  std::vector<std::string> environment;  // "NAME=value"
  // Reads a whole file, up to a few MiB.
  std::function<absl::StatusOr<std::string>(const std::string& path)> read_file;
};

// Where the value of an option came from.
struct Origin {
  enum class Source { kDefault, kFile, kEnvironment, kFlag };
  Source source = Source::kDefault;
  std::string place;  // "gateway.yaml:3", "TESSERA_GATEWAY_LISTEN", "--listen"; empty for defaults
};

struct LoadedConfig {
  enum class Wish { kServe, kPrintConfig, kHelp };
  Wish wish = Wish::kServe;
  std::vector<Origin> origins;  // of every option, by its place in the message
  // What LMCache's settings ask for and nothing of Tessera does: "LMCACHE_X: why".
  std::vector<std::string> ignored;
};

// Fills all fields of `config`, whose type declares the options. INVALID_ARGUMENT: one line for
// every mistake, "WHERE: what is wrong and what to change"; a required option is only missed when
// the wish is to serve. No line repeats the value of an option that does not exist.
absl::StatusOr<LoadedConfig> LoadConfig(const ConfigInput& input,
                                        google::protobuf::Message* config);

// Whether anything but the default says what the option is. `option` is one of `type`.
bool IsGiven(const LoadedConfig& loaded, const google::protobuf::Descriptor& type,
             const std::string& option);

// Reads the files that configurations are in: 1 byte to 4 MiB.
absl::StatusOr<std::string> ReadConfigFile(const std::string& path);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_CONFIG_H_
