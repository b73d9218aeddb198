#include "base/config/start.h"

#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <utility>

#include "absl/strings/str_split.h"
#include "base/config/config.h"
#include "base/config/options.h"
#include "base/config/print.h"
#include "base/log.h"
#include "base/process.h"
#include "glog/logging.h"

namespace tessera::config {
namespace {

ConfigInput InputOf(int argc, char** argv) {
  ConfigInput input;
  input.arguments.assign(argv + 1, argv + argc);
  for (char** variable = environ; *variable != nullptr; ++variable) {
    input.environment.emplace_back(*variable);
  }
  input.read_file = ReadConfigFile;
  return input;
}

// All three servers have the option, and its choices are the names of levels.
LogLevel LogLevelOf(const google::protobuf::Message& config) {
  const auto* const field = config.GetDescriptor()->FindFieldByName("log_level");
  CHECK_NE(field, nullptr);
  LogLevel level = LogLevel::kInfo;
  CHECK(ParseLogLevel(config.GetReflection()->GetString(config, field), &level));
  return level;
}

[[noreturn]] void PrintAndExit(const std::string& text) {
  std::cout << text << std::flush;
  std::exit(std::cout.good() ? 0 : 1);
}

}  // namespace

LoadedConfig StartConfigured(int argc, char** argv, google::protobuf::Message* config) {
  const auto& type = *config->GetDescriptor();
  absl::StatusOr<LoadedConfig> loaded = LoadConfig(InputOf(argc, argv), config);
  if (!loaded.ok()) {
    for (const absl::string_view line : absl::StrSplit(loaded.status().message(), '\n')) {
      std::cerr << ProgramOf(type).name() << ": " << line << "\n";
    }
    std::exit(1);
  }
  if (loaded->wish == LoadedConfig::Wish::kHelp) PrintAndExit(HelpText(type));
  if (loaded->wish == LoadedConfig::Wish::kPrintConfig)
    PrintAndExit(PrintedConfig(*config, *loaded));
  SetLogLevel(LogLevelOf(*config));
  StartProcess(argv[0]);
  StepLogLevelOnSignals();
  for (const std::string& setting : loaded->ignored) {
    LOG_EVENT(kWarning, "ignored_setting").With("setting", setting);
  }
  return *std::move(loaded);
}

}  // namespace tessera::config
