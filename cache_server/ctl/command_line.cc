#include "cache_server/ctl/command_line.h"

#include <algorithm>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera::ctl {
namespace {

struct FlagWord {
  std::string name;
  std::string value;
  bool has_value = false;
};

// A word that starts with a dash.
absl::StatusOr<FlagWord> ReadFlag(const std::string& word) {
  FlagWord read;
  const size_t equals = word.find('=');
  read.name = word.substr(0, equals);
  read.name.erase(0, read.name.find_first_not_of('-'));
  read.has_value = equals != std::string::npos;
  if (read.has_value) read.value = word.substr(equals + 1);
  const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(read.name);
  if (flag == nullptr && absl::StartsWith(read.name, "no") && !read.has_value) {
    flag = absl::FindCommandLineFlag(read.name.substr(2));
    if (flag != nullptr && flag->IsOfType<bool>())
      return FlagWord{read.name.substr(2), "false", true};
    flag = nullptr;
  }
  if (flag == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown flag ", word, "; `tessera_ctl help` names them"));
  }
  if (!read.has_value && flag->IsOfType<bool>()) return FlagWord{read.name, "true", true};
  return read;
}

}  // namespace

bool CommandLine::Has(const std::string& flag) const {
  return std::any_of(flags.begin(), flags.end(),
                     [&flag](const auto& given) { return given.first == flag; });
}

absl::StatusOr<CommandLine> SplitCommandLine(const std::vector<std::string>& arguments) {
  CommandLine line;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--") {
      line.words.insert(line.words.end(), arguments.begin() + i + 1, arguments.end());
      break;
    }
    if (word == "--help" || word == "-h") {
      line.help = true;
      continue;
    }
    if (word.size() < 2 || word[0] != '-') {
      line.words.push_back(word);
      continue;
    }
    ASSIGN_OR_RETURN(FlagWord flag, ReadFlag(word));
    if (!flag.has_value) {
      if (i + 1 == arguments.size()) {
        return absl::InvalidArgumentError(absl::StrCat(word, " needs a value: ", word, "=VALUE"));
      }
      flag.value = arguments[++i];
    }
    line.flags.emplace_back(flag.name, flag.value);
  }
  return line;
}

absl::Status SetFlags(const CommandLine& line, const std::vector<std::string>& allowed) {
  for (const auto& [name, value] : line.flags) {
    if (std::find(allowed.begin(), allowed.end(), name) == allowed.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--", name, " is no flag of this command; it has --", absl::StrJoin(allowed, ", --")));
    }
    absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    CHECK(flag != nullptr) << name;
    std::string error;
    if (!flag->ParseFrom(value, &error)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--", name, "=", value, " is not valid: ", error.empty() ? flag->Help() : error));
    }
  }
  return absl::OkStatus();
}

}  // namespace tessera::ctl
