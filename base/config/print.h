// What --help and --print-config print.
#ifndef TESSERA_BASE_CONFIG_PRINT_H_
#define TESSERA_BASE_CONFIG_PRINT_H_

#include <string>

#include "base/config/config.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace tessera::config {

// Every option: what it means, takes, and is by default, and its names elsewhere.
std::string HelpText(const google::protobuf::Descriptor& type);

// The configuration as a YAML file that gives the same one, and where each value came from. A
// required option without a value is a comment.
std::string PrintedConfig(const google::protobuf::Message& config, const LoadedConfig& loaded);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_PRINT_H_
