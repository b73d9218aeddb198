// Arbitrary bytes as the YAML file of a program's configuration (base/config/config.h).
//
// The input is a byte, which chooses the program and whether the file is one of LMCache's, then the
// file. A file that is accepted gives a configuration that is printed as a file which gives the
// same one; a file that is refused gets lines that say where.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "base/config/config.h"
#include "base/config/print.h"
#include "glog/logging.h"
#include "google/protobuf/util/message_differencer.h"
#include "proto/config.pb.h"

namespace tessera::fuzz {
namespace {

using config::ConfigInput;
using config::LoadedConfig;
using google::protobuf::Message;

constexpr char kPath[] = "file.yaml";

ConfigInput InputOf(const std::string& file, bool is_of_lmcache) {
  ConfigInput input;
  // What is required may be missing.
  input.arguments = {"--print-config"};
  if (is_of_lmcache) {
    input.environment = {std::string("LMCACHE_CONFIG_FILE=") + kPath};
  } else {
    input.arguments.push_back(std::string("--config=") + kPath);
  }
  input.read_file = [file](const std::string&) { return file; };
  return input;
}

void CheckPrinted(const Message& config, const LoadedConfig& loaded) {
  const std::string printed = config::PrintedConfig(config, loaded);
  const std::unique_ptr<Message> again(config.New());
  const auto reloaded = config::LoadConfig(InputOf(printed, false), again.get());
  CHECK(reloaded.ok()) << reloaded.status() << "\n" << printed;
  CHECK(google::protobuf::util::MessageDifferencer::Equals(config, *again)) << printed;
}

void CheckRefused(const absl::Status& status) {
  CHECK(absl::IsInvalidArgument(status)) << status;
  for (const absl::string_view line : absl::StrSplit(status.message(), '\n')) {
    CHECK(absl::StartsWith(line, "file.yaml:") || absl::EndsWith(line, " more mistakes")) << line;
    CHECK_GT(line.size(), 20u);
    CHECK_LT(line.size(), 1000u) << line;
  }
}

}  // namespace

void FuzzConfigYaml(const uint8_t* bytes, size_t size) {
  if (size == 0) return;
  const std::array<const Message*, 3> programs = {&config::GatewayConfig::default_instance(),
                                                  &config::CacheServerConfig::default_instance(),
                                                  &config::WorkerConfig::default_instance()};
  const std::unique_ptr<Message> config(programs[bytes[0] / 2 % 3]->New());
  const std::string file(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  const auto loaded = config::LoadConfig(InputOf(file, bytes[0] % 2 == 1), config.get());
  if (loaded.ok()) {
    CheckPrinted(*config, *loaded);
  } else {
    CheckRefused(loaded.status());
  }
}

}  // namespace tessera::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  tessera::fuzz::FuzzConfigYaml(bytes, size);
  return 0;
}
