#include "base/config/lmcache.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/config/options.h"
#include "base/config/text.h"

namespace tessera::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// "True", "1" and so on as "true".
std::string AsBool(const std::string& text) {
  const std::string word = absl::AsciiStrToLower(text);
  if (word == "true" || word == "1" || word == "yes" || word == "on") return "true";
  if (word == "false" || word == "0" || word == "no" || word == "off") return "false";
  return text;
}

absl::StatusOr<std::string> Gigabytes(const std::string& text) {
  double gigabytes = 0;
  // Up to a petabyte, which a double holds to the byte.
  if (!absl::SimpleAtod(text, &gigabytes) || !(gigabytes >= 0 && gigabytes <= 1e6)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), " is not a number of GB: give one, such as 5 or 0.5"));
  }
  return absl::StrCat(static_cast<uint64_t>(std::llround(gigabytes * 1e9)));
}

absl::StatusOr<std::string> Folder(const std::string& text) {
  const std::string as_bool = AsBool(text);
  if (as_bool == "false") return std::string();
  if (as_bool == "true") {
    return absl::InvalidArgumentError(
        "'true' names no folder: give one, such as file:///var/cache/kv");
  }
  return std::string(absl::StripPrefix(text, "file://"));
}

// NOT_FOUND: a server of another kind.
absl::StatusOr<std::string> ServerAddress(const std::string& text) {
  const size_t scheme = text.find("://");
  if (scheme == std::string::npos) return text;
  const std::string name = text.substr(0, scheme);
  if (name != "lm") {
    return absl::NotFoundError(absl::StrCat("no cache server is at a ", Quoted(name), " URL"));
  }
  return text.substr(scheme + 3);
}

absl::StatusOr<std::string> OneOf(std::vector<std::string> values) {
  // The environment writes a list with commas.
  if (values.size() == 1) values = absl::StrSplit(values[0], ',', absl::SkipWhitespace());
  if (values.size() == 1) return std::string(absl::StripAsciiWhitespace(values[0]));
  return absl::InvalidArgumentError(absl::StrCat("there are ", values.size(), " values: give one"));
}

absl::StatusOr<std::string> TextFor(const LmcacheAlias& alias,
                                    const std::vector<std::string>& values) {
  if (alias.form() == LIST_OF_ONE) return OneOf(values);
  if (values.size() != 1) return absl::InvalidArgumentError("a list stands there: give one value");
  switch (alias.form()) {
    case GIGABYTES:
      return Gigabytes(values[0]);
    case FOLDER:
      return Folder(values[0]);
    case SERVER_URL:
      return ServerAddress(values[0]);
    default:
      return values[0];
  }
}

// Adds what `alias` makes of the values to `meaning`. False: these values mean nothing to it.
bool Apply(const LmcacheAlias& alias, const std::vector<std::string>& values,
           const FieldDescriptor* field, LmcacheMeaning* meaning) {
  if (!alias.when().empty()) {
    if (values.size() != 1 || (values[0] != alias.when() && AsBool(values[0]) != alias.when())) {
      return false;
    }
    if (!alias.gives().empty()) meaning->settings.push_back({field, alias.gives()});
    return true;
  }
  const absl::StatusOr<std::string> text = TextFor(alias, values);
  if (text.ok()) {
    meaning->settings.push_back({field, *text});
  } else if (absl::IsNotFound(text.status())) {
    meaning->ignored = std::string(text.status().message());
  } else {
    meaning->error = std::string(text.status().message());
  }
  return true;
}

bool IsTaken(const std::string& name, const Descriptor& type) {
  const std::vector<std::string> names = LmcacheNames(type);
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool IsTakenByAny(const std::string& name, const google::protobuf::FileDescriptor& file) {
  for (int i = 0; i < file.message_type_count(); ++i) {
    if (IsTaken(name, *file.message_type(i))) return true;
  }
  return false;
}

}  // namespace

LmcacheMeaning MeaningOf(const std::string& name, const std::vector<std::string>& values,
                         const Descriptor& type, const std::set<const FieldDescriptor*>& decided) {
  LmcacheMeaning meaning;
  if (!IsTaken(name, type)) {
    if (!IsTakenByAny(name, *type.file())) meaning.ignored = "Tessera has no equivalent";
    return meaning;
  }
  bool applied = false;
  for (int i = 0; i < type.field_count(); ++i) {
    for (const LmcacheAlias& alias : OptionOf(*type.field(i)).lmcache()) {
      if (alias.name() != name) continue;
      applied |= decided.count(type.field(i)) > 0 || Apply(alias, values, type.field(i), &meaning);
    }
  }
  if (!applied) {
    meaning.ignored = absl::StrCat("nothing here is like ", Quoted(absl::StrJoin(values, ",")));
  }
  return meaning;
}

std::vector<std::string> LmcacheNames(const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) {
    for (const LmcacheAlias& alias : OptionOf(*type.field(i)).lmcache()) {
      if (std::find(names.begin(), names.end(), alias.name()) == names.end()) {
        names.push_back(alias.name());
      }
    }
  }
  return names;
}

}  // namespace tessera::config
