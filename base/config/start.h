// What the main() of a configured program does first.
#ifndef TESSERA_BASE_CONFIG_START_H_
#define TESSERA_BASE_CONFIG_START_H_

#include "base/config/config.h"
#include "google/protobuf/message.h"

namespace tessera::config {

// Fills `config` (base/config/config.h) from the command line, the environment and the files that
// they name, sets the log level, which signals change from then on, and starts the process
// (base/process.h). Ends it instead after --help and
// --print-config, with exit code 0, and for a wrong configuration, with 1 and a line on standard
// error for every mistake: "tessera_gateway: ...". Returns what LoadConfig
// does. Call once, before any thread starts.
LoadedConfig StartConfigured(int argc, char** argv, google::protobuf::Message* config);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_START_H_
