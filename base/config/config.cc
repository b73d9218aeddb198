#include "base/config/config.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/config/command_line.h"
#include "base/config/lmcache.h"
#include "base/config/option_value.h"
#include "base/config/options.h"
#include "base/config/text.h"
#include "base/config/yaml_file.h"
#include "base/config/yaml_value.h"
#include "base/files.h"
#include "glog/logging.h"

namespace tessera::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Source = Origin::Source;

constexpr size_t kMostErrors = 50;

// Kubernetes puts these into a container for a service that is called as the program is.
bool IsOfKubernetes(absl::string_view name) {
  return absl::EndsWith(name, "SERVICE_HOST") || absl::StrContains(name, "SERVICE_PORT") ||
         name == "PORT" || absl::StartsWith(name, "PORT_") || absl::EndsWith(name, "_PORT") ||
         absl::StrContains(name, "_PORT_");
}

// LMCache takes the quotes off that keep a shell or a file from trimming a value.
std::string WithoutQuotes(const std::string& text) {
  const bool quoted = text.size() >= 2 && text.front() == text.back() &&
                      (text.front() == '"' || text.front() == '\'');
  return quoted ? text.substr(1, text.size() - 2) : text;
}

class Loader {
 public:
  Loader(const ConfigInput& input, Message* config)
      : input_(input), config_(*config), type_(*config->GetDescriptor()) {
    for (const std::string& variable : input.environment) {
      const size_t equals = variable.find('=');
      if (equals == std::string::npos) continue;
      environment_.emplace(variable.substr(0, equals), variable.substr(equals + 1));
    }
  }

  absl::StatusOr<LoadedConfig> Load() && {
    SetDefaults(&config_);
    loaded_.origins.resize(static_cast<size_t>(type_.field_count()));
    const CommandLine line = ReadCommandLine(input_.arguments, type_);
    if (line.help) {
      loaded_.wish = LoadedConfig::Wish::kHelp;
      return std::move(loaded_);
    }
    if (line.print_config) loaded_.wish = LoadedConfig::Wish::kPrintConfig;
    ReadFile(line);
    ReadLmcache(line);
    ReadEnvironment();
    for (const std::string& error : line.errors) Error(error);
    for (const Setting& setting : line.settings) {
      const std::string place = absl::StrCat("--", setting.field->name());
      Set(setting, {Source::kFlag, place});
    }
    if (loaded_.wish == LoadedConfig::Wish::kServe) CheckRequired();
    if (errors_.empty()) return std::move(loaded_);
    if (errors_.size() > kMostErrors) {
      const size_t more = errors_.size() - kMostErrors;
      errors_.resize(kMostErrors);
      Error(absl::StrCat("and ", more, " more mistakes"));
    }
    return absl::InvalidArgumentError(absl::StrJoin(errors_, "\n"));
  }

 private:
  void Error(std::string error) { errors_.push_back(std::move(error)); }

  Origin& OriginOf(const FieldDescriptor* field) {
    return loaded_.origins[static_cast<size_t>(field->index())];
  }

  // `suffix` stands behind the origin in an error.
  void Note(const absl::Status& status, const FieldDescriptor* field, const Origin& origin,
            absl::string_view suffix = "") {
    if (status.ok()) {
      OriginOf(field) = origin;
    } else {
      failed_.insert(field);
      Error(absl::StrCat(origin.place, suffix, ": ", status.message()));
    }
  }

  void Set(const Setting& setting, const Origin& origin) {
    Note(SetOption(setting.text, *setting.field, &config_), setting.field, origin);
  }

  const std::string* Variable(const std::string& name) const {
    const auto found = environment_.find(name);
    return found == environment_.end() ? nullptr : &found->second;
  }

  std::string ConfigVariable() const {
    return absl::StrCat(ProgramOf(type_).environment(), "CONFIG");
  }

  // The file's text is read by whoever asked for it; nothing when that failed, which is reported.
  YamlFile ReadYamlAt(const std::string& path, const std::string& named_by) {
    const absl::StatusOr<std::string> text = input_.read_file(path);
    if (!text.ok()) {
      Error(absl::StrCat(named_by, ": ", text.status().message()));
      return {};
    }
    YamlFile file = ReadYaml(*text);
    for (const std::string& error : file.errors) Error(absl::StrCat(path, ":", error));
    if (!file.errors.empty()) file.entries.clear();
    return file;
  }

  void ReadFile(const CommandLine& line) {
    const std::string* variable = Variable(ConfigVariable());
    std::string path = line.config_file.value_or(variable == nullptr ? "" : *variable);
    if (path.empty()) return;
    const YamlFile file =
        ReadYamlAt(path, line.config_file.has_value() ? "--config" : ConfigVariable());
    for (const YamlEntry& entry : file.entries) {
      const std::string place = absl::StrCat(path, ":", entry.line);
      const FieldDescriptor* field = type_.FindFieldByName(entry.name);
      if (field == nullptr) {
        Error(absl::StrCat(place, ": no option ", Quoted(entry.name), "; the closest is '",
                           NearestName(entry.name, type_), "'"));
        continue;
      }
      const absl::Status status = SetYamlOption(entry, *field, &config_);
      Note(status, field, {Source::kFile, place}, absl::StrCat(": ", entry.name));
    }
  }

  struct Given {
    std::vector<std::string> values;
    Origin origin;
  };

  // LMCache's settings by their names; the environment's go over the file's.
  std::map<std::string, Given> LmcacheSettings() {
    std::map<std::string, Given> settings;
    const std::string file_name(kLmcacheFile);
    if (const std::string* path = Variable(file_name); path != nullptr && !path->empty()) {
      for (const YamlEntry& entry : ReadYamlAt(*path, file_name).entries) {
        if (entry.kind == YamlEntry::Kind::kNull) continue;
        Given& given = settings[entry.name];
        for (const YamlValue& value : entry.values) given.values.push_back(value.text);
        given.origin = {Source::kFile, absl::StrCat(*path, ":", entry.line)};
      }
    }
    for (const auto& [variable, value] : environment_) {
      if (!absl::StartsWith(variable, kLmcachePrefix) || variable == kLmcacheFile) continue;
      if (value.empty()) continue;  // as if it were not there
      const std::string name = absl::AsciiStrToLower(variable.substr(kLmcachePrefix.size()));
      settings[name] = {{WithoutQuotes(value)}, {Source::kEnvironment, variable}};
    }
    return settings;
  }

  // Only looks at the values that count: the start script gives the same options by flags, and
  // understands more.
  void ReadLmcache(const CommandLine& line) {
    std::set<const FieldDescriptor*> decided;
    for (const Setting& setting : line.settings) decided.insert(setting.field);
    for (int i = 0; i < type_.field_count(); ++i) {
      if (Variable(EnvironmentName(*type_.field(i))) != nullptr) decided.insert(type_.field(i));
    }
    std::map<std::string, Given> settings = LmcacheSettings();
    for (const std::string& name : LmcacheNames(type_)) {
      const auto given = settings.find(name);
      if (given == settings.end()) continue;
      ApplyLmcache(name, given->second, decided);
      settings.erase(given);
    }
    for (const auto& [name, given] : settings) ApplyLmcache(name, given, decided);
  }

  void ApplyLmcache(const std::string& name, const Given& given,
                    const std::set<const FieldDescriptor*>& decided) {
    const LmcacheMeaning meaning = MeaningOf(name, given.values, type_, decided);
    const std::string place = given.origin.source == Source::kFile
                                  ? absl::StrCat(given.origin.place, ": ", name)
                                  : given.origin.place;
    if (!meaning.ignored.empty()) {
      loaded_.ignored.push_back(absl::StrCat(place, ": ", meaning.ignored));
    }
    if (!meaning.error.empty()) Error(absl::StrCat(place, ": ", meaning.error));
    for (const Setting& setting : meaning.settings) {
      Note(SetOption(setting.text, *setting.field, &config_), setting.field,
           {given.origin.source, place});
    }
  }

  void ReadEnvironment() {
    const std::string& prefix = ProgramOf(type_).environment();
    for (const auto& [variable, value] : environment_) {
      absl::string_view name = variable;
      if (!absl::ConsumePrefix(&name, prefix) || variable == ConfigVariable()) continue;
      const FieldDescriptor* field = type_.FindFieldByName(absl::AsciiStrToLower(name));
      if (field != nullptr && EnvironmentName(*field) == variable) {
        Set({field, value}, {Source::kEnvironment, variable});
      } else if (!IsOfKubernetes(name)) {
        const std::string nearest = NearestName(absl::AsciiStrToLower(name), type_, {"config"});
        Error(absl::StrCat("no option ", Quoted(variable), " in the environment; the closest is ",
                           prefix, absl::AsciiStrToUpper(nearest)));
      }
    }
  }

  void CheckRequired() {
    for (int i = 0; i < type_.field_count(); ++i) {
      const FieldDescriptor& field = *type_.field(i);
      if (!OptionOf(field).required() || !FormatOption(config_, field).empty()) continue;
      // What was wrong with it has been said.
      if (failed_.count(&field) > 0) continue;
      Error(absl::StrCat("--", field.name(), " is required: ", OptionOf(field).doc()));
    }
  }

  const ConfigInput& input_;
  Message& config_;
  const Descriptor& type_;
  std::map<std::string, std::string> environment_;
  LoadedConfig loaded_;
  std::set<const FieldDescriptor*> failed_;  // those whose value was refused
  std::vector<std::string> errors_;
};

}  // namespace

absl::StatusOr<LoadedConfig> LoadConfig(const ConfigInput& input, Message* config) {
  return Loader(input, config).Load();
}

bool IsGiven(const LoadedConfig& loaded, const Descriptor& type, const std::string& option) {
  const FieldDescriptor* field = type.FindFieldByName(option);
  CHECK(field != nullptr) << option;
  return loaded.origins[static_cast<size_t>(field->index())].source != Source::kDefault;
}

absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  return ReadSmallFile(path, "configuration");
}

}  // namespace tessera::config
