#include "base/config/yaml_value.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/config/option_value.h"
#include "base/config/options.h"
#include "base/config/text.h"
#include "base/status_macros.h"
#include "google/protobuf/reflection.h"

namespace tessera::config {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

bool IsYamlBool(const std::string& text) {
  const std::string word = absl::AsciiStrToLower(text);
  return word == "true" || word == "false";
}

bool IsYamlNumber(const std::string& text) {
  double number = 0;
  return absl::SimpleAtod(text, &number) && text.find_first_of("0123456789") != std::string::npos;
}

absl::Status CheckText(const YamlValue& value) {
  if (value.quoted || (!IsYamlBool(value.text) && !IsYamlNumber(value.text))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(value.text), " is no text in YAML: put it in quotes, as ", YamlString(value.text)));
}

absl::Status CheckType(const YamlValue& value, const FieldDescriptor& field) {
  const bool is_text = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  if (is_text) return OptionOf(field).choices().empty() ? CheckText(value) : absl::OkStatus();
  const bool is_bool = field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL;
  if (is_bool && (value.quoted || !IsYamlBool(value.text))) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(value.text), " is no bool: give true or false, without quotes"));
  }
  if (!is_bool && value.quoted && IsYamlNumber(value.text)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(value.text), " is text: take the quotes away"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SetYamlOption(const YamlEntry& entry, const FieldDescriptor& field, Message* message) {
  if (entry.kind == YamlEntry::Kind::kNull) {
    return absl::InvalidArgumentError("no value stands there: give one, or take the line away");
  }
  if (entry.kind == YamlEntry::Kind::kOther) {
    return absl::InvalidArgumentError(
        absl::StrCat("something nested stands there: give ", FormOf(field)));
  }
  if (entry.kind == YamlEntry::Kind::kList && !field.is_repeated()) {
    return absl::InvalidArgumentError("a list stands there: give one value");
  }
  std::vector<std::string> values;
  for (const YamlValue& value : entry.values) {
    RETURN_IF_ERROR(CheckType(value, field));
    values.push_back(value.text);
  }
  if (entry.kind == YamlEntry::Kind::kList) return SetListOption(values, field, message);
  return SetOption(values[0], field, message);
}

std::string YamlOption(const Message& message, const FieldDescriptor& field) {
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_STRING) return FormatOption(message, field);
  if (!field.is_repeated()) return YamlString(FormatOption(message, field));
  std::vector<std::string> values;
  const auto list = message.GetReflection()->GetRepeatedFieldRef<std::string>(message, &field);
  for (const std::string& value : list) values.push_back(YamlString(value));
  return absl::StrCat("[", absl::StrJoin(values, ", "), "]");
}

}  // namespace tessera::config
