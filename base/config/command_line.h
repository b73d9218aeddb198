// The words of a command line.
#ifndef TESSERA_BASE_CONFIG_COMMAND_LINE_H_
#define TESSERA_BASE_CONFIG_COMMAND_LINE_H_

#include <optional>
#include <string>
#include <vector>

#include "google/protobuf/descriptor.h"

namespace tessera::config {

// One option and the text that stands for its value.
struct Setting {
  const google::protobuf::FieldDescriptor* field = nullptr;
  std::string text;
};

struct CommandLine {
  std::vector<Setting> settings;           // in their order: of one option the last counts
  std::optional<std::string> config_file;  // --config
  bool print_config = false;
  bool help = false;
  std::vector<std::string> errors;  // each says what to change, and repeats no value
};

// Flags that are no options of the program.
std::vector<std::string> CommonFlags();

// `arguments` come behind the program's name: --name=value, --name value, and --name or --noname
// for bools; one dash does too, and '-' in a name stands for '_'.
CommandLine ReadCommandLine(const std::vector<std::string>& arguments,
                            const google::protobuf::Descriptor& type);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_COMMAND_LINE_H_
