// Values of options in YAML: typed when they are read, and written so that they are read the same.
#ifndef TESSERA_BASE_CONFIG_YAML_VALUE_H_
#define TESSERA_BASE_CONFIG_YAML_VALUE_H_

#include <string>

#include "absl/status/status.h"
#include "base/config/yaml_file.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace tessera::config {

// Sets an option to an entry's value. Quoted text is no number and no bool, and a plain number or
// bool is no text, except for options with choices; a list may be one comma-separated text.
// INVALID_ARGUMENT says what is wrong and what to give.
absl::Status SetYamlOption(const YamlEntry& entry, const google::protobuf::FieldDescriptor& field,
                           google::protobuf::Message* message);

// The option's value as SetYamlOption takes it: 12, 4GiB, 15s, true, "text", ["a", "b"].
std::string YamlOption(const google::protobuf::Message& message,
                       const google::protobuf::FieldDescriptor& field);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_YAML_VALUE_H_
