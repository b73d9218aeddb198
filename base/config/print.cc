#include "base/config/print.h"

#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/config/option_value.h"
#include "base/config/options.h"
#include "base/config/text.h"
#include "base/config/yaml_value.h"

namespace tessera::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Source = Origin::Source;

constexpr size_t kWidth = 100;

// "default 4GiB; at most 100TiB; in the environment TESSERA_CACHE_RAM_BYTES,
// LMCACHE_MAX_LOCAL_CPU_SIZE".
std::string FactsOf(const FieldDescriptor& field, const Message& defaults) {
  const Option& option = OptionOf(field);
  std::vector<std::string> names = {EnvironmentName(field)};
  for (const LmcacheAlias& alias : option.lmcache()) {
    std::string name = absl::StrCat("LMCACHE_", absl::AsciiStrToUpper(alias.name()));
    if (name != names.back()) names.push_back(std::move(name));
  }
  const std::string range = RangeOf(field);
  return absl::StrCat(
      option.required() ? "required" : absl::StrCat("default ", YamlOption(defaults, field)),
      range.empty() ? "" : "; ", range, "; in the environment ", absl::StrJoin(names, ", "));
}

// A path may hold anything, also the end of a line.
std::string OneLine(const std::string& place) {
  if (!IsPlainUtf8(place)) return absl::CEscape(place);
  const std::string quoted = YamlString(place);
  return quoted.substr(1, quoted.size() - 2);
}

const char* NameOf(Source source) {
  switch (source) {
    case Source::kDefault:
      return "default";
    case Source::kFile:
      return "file";
    case Source::kEnvironment:
      return "environment";
    case Source::kFlag:
      return "flag";
  }
  return "";
}

}  // namespace

std::string HelpText(const Descriptor& type) {
  const Program& program = ProgramOf(type);
  const std::unique_ptr<Message> defaults(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(&type)->New());
  SetDefaults(defaults.get());
  std::string text = absl::StrCat(
      program.name(), ": ", program.summary(), "\n\nusage: ", program.name(),
      " [--config=FILE] [--NAME=VALUE ...]\n\n",
      Wrapped(absl::StrCat("Options come from their defaults, the YAML file that --config or ",
                           program.environment(),
                           "CONFIG names, the environment (LMCACHE_ names, then ours), and flags; "
                           "each goes over the ones before it."),
              "", kWidth),
      "\n  --print-config prints the configuration in effect as such a file, and ends.\n");
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    absl::StrAppend(&text, "\n  --", field.name(), "=", FormOf(field), "\n",
                    Wrapped(OptionOf(field).doc(), "      ", kWidth),
                    Wrapped(absl::StrCat("(", FactsOf(field, *defaults), ")"), "      ", kWidth));
  }
  return text;
}

std::string PrintedConfig(const Message& config, const LoadedConfig& loaded) {
  const Descriptor& type = *config.GetDescriptor();
  std::string text = absl::StrCat("# Options of ", ProgramOf(type).name(),
                                  "; its --help says more. Each names where its value is from.\n");
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const Origin& origin = loaded.origins[static_cast<size_t>(i)];
    const std::string place = origin.place.empty() ? "" : " " + OneLine(origin.place);
    const bool is_missing = OptionOf(field).required() && FormatOption(config, field).empty();
    absl::StrAppend(&text, "\n", Wrapped(OptionOf(field).doc(), "# ", kWidth),
                    "# from: ", NameOf(origin.source), place, is_missing ? " (required)\n# " : "\n",
                    field.name(), ": ", YamlOption(config, field), "\n");
  }
  return text;
}

}  // namespace tessera::config
