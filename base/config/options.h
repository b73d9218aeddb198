// The options of a program, found in the message that declares them (base/config/option.proto).
#ifndef TESSERA_BASE_CONFIG_OPTIONS_H_
#define TESSERA_BASE_CONFIG_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/config/option.pb.h"
#include "google/protobuf/descriptor.h"

namespace tessera::config {

// What is declared. A message or field without it is a bug of ours.
const Program& ProgramOf(const google::protobuf::Descriptor& type);
const Option& OptionOf(const google::protobuf::FieldDescriptor& field);

// "TESSERA_GATEWAY_LISTEN".
std::string EnvironmentName(const google::protobuf::FieldDescriptor& field);

// Of the options' names and `others`, the one that takes the fewest changes to become `name`.
std::string NearestName(absl::string_view name, const google::protobuf::Descriptor& type,
                        const std::vector<std::string>& others = {});

// What may be given for it: "TEXT", "NUMBER", "BYTES", "DURATION", "true|false", "a|b", "TEXT,...".
std::string FormOf(const google::protobuf::FieldDescriptor& field);

// "16 to 65536", "at least 100ms", "more than 0 and at most 1"; empty: no bounds of its own.
std::string RangeOf(const google::protobuf::FieldDescriptor& field);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_OPTIONS_H_
