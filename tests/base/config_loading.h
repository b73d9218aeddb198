// Configurations for tests: from files that are here alone.
#ifndef TESSERA_TESTS_BASE_CONFIG_LOADING_H_
#define TESSERA_TESTS_BASE_CONFIG_LOADING_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/config/config.h"
#include "proto/config.pb.h"

namespace tessera::config {

template <typename Config>
struct Loading {
  std::map<std::string, std::string> files;
  std::vector<std::string> environment;
  std::vector<std::string> arguments;
  Config config;
  LoadedConfig loaded;

  absl::Status Load() {
    const auto read = [this](const std::string& path) -> absl::StatusOr<std::string> {
      const auto found = files.find(path);
      if (found == files.end()) return absl::InvalidArgumentError(absl::StrCat("no ", path));
      return found->second;
    };
    absl::StatusOr<LoadedConfig> result = LoadConfig({arguments, environment, read}, &config);
    if (result.ok()) loaded = *result;
    return result.status();
  }

  // The lines of the error; none when there is no error.
  std::string Error() { return std::string(Load().message()); }

  const Origin& OriginOf(const std::string& name) const {
    return loaded
        .origins[static_cast<size_t>(Config::descriptor()->FindFieldByName(name)->index())];
  }
};

using Gateway = Loading<GatewayConfig>;
using Cache = Loading<CacheServerConfig>;
using Worker = Loading<WorkerConfig>;

// The gateway's, from a file whose line 2 is the first of `yaml`.
inline Gateway GatewayFile(const std::string& yaml) {
  return {{{"g.yaml", absl::StrCat("model_dir: /m\n", yaml)}}, {}, {"--config=g.yaml"}, {}, {}};
}

}  // namespace tessera::config

#endif  // TESSERA_TESTS_BASE_CONFIG_LOADING_H_
