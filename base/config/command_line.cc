#include "base/config/command_line.h"

#include <cstddef>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/config/options.h"
#include "base/config/text.h"

namespace tessera::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

constexpr absl::string_view kConfig = "config";
constexpr absl::string_view kPrintConfig = "print_config";
constexpr absl::string_view kHelp = "help";

bool IsBool(const FieldDescriptor* field) {
  return field != nullptr && !field->is_repeated() &&
         field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL;
}

class Reader {
 public:
  Reader(const std::vector<std::string>& arguments, const Descriptor& type)
      : arguments_(arguments), type_(type) {}

  CommandLine Read() && {
    for (next_ = 0; next_ < arguments_.size();) {
      const size_t place = next_ + 1;
      absl::string_view word = arguments_[next_++];
      if (word.size() < 2 || !absl::ConsumePrefix(&word, "-")) {
        // Not repeated: it may be the value of an option that does not exist, such as a key.
        Error(absl::StrCat("argument ", place, " is no option: write --name=value"));
        continue;
      }
      absl::ConsumePrefix(&word, "-");
      const size_t equals = word.find('=');
      std::optional<std::string> value;
      if (equals != absl::string_view::npos) value = std::string(word.substr(equals + 1));
      Flag(absl::StrReplaceAll(word.substr(0, equals), {{"-", "_"}}), value);
    }
    return std::move(line_);
  }

 private:
  void Error(std::string error) { line_.errors.push_back(std::move(error)); }

  void Flag(const std::string& name, const std::optional<std::string>& value) {
    if (name == kHelp || name == "h") {
      line_.help = true;
    } else if (name == kPrintConfig) {
      line_.print_config = true;
    } else if (name == kConfig) {
      line_.config_file = Value(name, value);
    } else {
      OptionFlag(name, value);
    }
  }

  void OptionFlag(const std::string& name, const std::optional<std::string>& value) {
    const FieldDescriptor* field = type_.FindFieldByName(name);
    if (field == nullptr && absl::StartsWith(name, "no")) {
      const FieldDescriptor* negated = type_.FindFieldByName(name.substr(2));
      if (IsBool(negated) && !value.has_value()) {
        line_.settings.push_back({negated, "false"});
        return;
      }
    }
    if (field == nullptr) {
      Error(absl::StrCat("no option ", Quoted(absl::StrCat("--", name)), "; the closest is --",
                         NearestName(name, type_, CommonFlags())));
    } else if (IsBool(field)) {
      line_.settings.push_back({field, value.value_or("true")});
    } else {
      const std::optional<std::string> given = Value(name, value);
      if (given.has_value()) line_.settings.push_back({field, *given});
    }
  }

  // The value behind '=', or the next argument.
  std::optional<std::string> Value(const std::string& name,
                                   const std::optional<std::string>& value) {
    if (value.has_value()) return value;
    if (next_ < arguments_.size() && !absl::StartsWith(arguments_[next_], "--")) {
      return arguments_[next_++];
    }
    Error(absl::StrCat("--", name, " has no value: write --", name, "=value"));
    return {};
  }

  const std::vector<std::string>& arguments_;
  const Descriptor& type_;
  size_t next_ = 0;
  CommandLine line_;
};

}  // namespace

std::vector<std::string> CommonFlags() {
  return {std::string(kConfig), std::string(kPrintConfig), std::string(kHelp)};
}

CommandLine ReadCommandLine(const std::vector<std::string>& arguments, const Descriptor& type) {
  return Reader(arguments, type).Read();
}

}  // namespace tessera::config
