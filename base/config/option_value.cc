#include "base/config/option_value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/config/options.h"
#include "base/config/text.h"
#include "base/config/units.h"
#include "base/status_macros.h"
#include "glog/logging.h"
#include "google/protobuf/reflection.h"

namespace tessera::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr uint64_t kMostWhole = uint64_t{1} << 53;

absl::Status Wrong(absl::string_view text, absl::string_view what, absl::string_view change) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is ", what, ": give ", change));
}

bool IsReal(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE;
}

// Whole numbers below 2^53 are exact.
std::optional<double> ParseNumber(absl::string_view text, const FieldDescriptor& field) {
  if (text.empty() || absl::ascii_isspace(text.front()) || absl::ascii_isspace(text.back())) {
    return {};
  }
  double real = 0;
  uint64_t whole = 0;
  switch (OptionOf(field).unit()) {
    case BYTES:
      return ParseBytes(text);
    case DURATION:
      return ParseMilliseconds(text);
    default:
      break;
  }
  if (IsReal(field)) {
    if (!absl::SimpleAtod(text, &real) || !std::isfinite(real)) return {};
    return real;
  }
  if (!absl::SimpleAtoi(text, &whole) || whole >= kMostWhole) return {};
  return static_cast<double>(whole);
}

const char* KindOf(const FieldDescriptor& field) {
  switch (OptionOf(field).unit()) {
    case BYTES:
      return "a number of bytes, such as 65536, 512MB or 4GiB";
    case DURATION:
      return "a time with its unit, such as 500ms, 15s or 1m30s";
    default:
      return IsReal(field) ? "a number, such as 0.5" : "a whole number, 0 or more";
  }
}

double BoundOf(const std::string& text, const FieldDescriptor& field, double otherwise) {
  if (text.empty()) return otherwise;
  const std::optional<double> bound = ParseNumber(text, field);
  CHECK(bound.has_value()) << field.full_name() << " has the bound " << text;
  return *bound;
}

std::string FormatNumber(double number) {
  std::array<char, 64> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number);
  return std::string(digits.data(), end.ptr);
}

absl::Status SetNumber(absl::string_view text, const FieldDescriptor& field, Message* message) {
  const std::optional<double> number = ParseNumber(text, field);
  if (!number.has_value()) return Wrong(text, absl::StrCat("not ", KindOf(field)), "one");
  const Option& option = OptionOf(field);
  const bool narrow = field.cpp_type() == FieldDescriptor::CPPTYPE_UINT32;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double most = narrow ? std::numeric_limits<uint32_t>::max() : kInfinity;
  if (*number < BoundOf(option.min(), field, -kInfinity) ||
      *number > BoundOf(option.max(), field, most) ||
      *number <= BoundOf(option.above(), field, -kInfinity)) {
    const std::string range = RangeOf(field);
    return Wrong(text, "out of range", range.empty() ? FormatNumber(most) : range);
  }
  const auto* reflection = message->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_DOUBLE:
      reflection->SetDouble(message, &field, *number);
      break;
    case FieldDescriptor::CPPTYPE_UINT32:
      reflection->SetUInt32(message, &field, static_cast<uint32_t>(*number));
      break;
    case FieldDescriptor::CPPTYPE_UINT64:
      reflection->SetUInt64(message, &field, static_cast<uint64_t>(*number));
      break;
    default:
      LOG(FATAL) << field.full_name() << " has a type that no option has";
  }
  return absl::OkStatus();
}

absl::Status SetBool(absl::string_view text, const FieldDescriptor& field, Message* message) {
  const std::string word = absl::AsciiStrToLower(text);
  constexpr std::array<const char*, 6> kYes = {"true", "1", "yes", "on", "t", "y"};
  constexpr std::array<const char*, 6> kNo = {"false", "0", "no", "off", "f", "n"};
  const bool yes = std::find(kYes.begin(), kYes.end(), word) != kYes.end();
  if (!yes && std::find(kNo.begin(), kNo.end(), word) == kNo.end()) {
    return Wrong(text, "neither", "true or false");
  }
  message->GetReflection()->SetBool(message, &field, yes);
  return absl::OkStatus();
}

absl::Status CheckText(absl::string_view text, const FieldDescriptor& field) {
  if (text.size() > kMostValueBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the value is too long: give at most ", kMostValueBytes, " bytes"));
  }
  if (!IsPlainUtf8(text)) {
    return absl::InvalidArgumentError("the value is not UTF-8, or has a zero byte");
  }
  const auto& choices = OptionOf(field).choices();
  if (choices.empty() || std::find(choices.begin(), choices.end(), text) != choices.end()) {
    return absl::OkStatus();
  }
  return Wrong(text, "none of the choices", absl::StrJoin(choices, ", "));
}

}  // namespace

absl::Status SetOption(absl::string_view text, const FieldDescriptor& field, Message* message) {
  if (field.is_repeated()) {
    std::vector<std::string> values;
    for (const absl::string_view value : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
      values.emplace_back(absl::StripAsciiWhitespace(value));
    }
    return SetListOption(values, field, message);
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) return SetBool(text, field, message);
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_STRING) return SetNumber(text, field, message);
  RETURN_IF_ERROR(CheckText(text, field));
  message->GetReflection()->SetString(message, &field, std::string(text));
  return absl::OkStatus();
}

absl::Status SetListOption(const std::vector<std::string>& values, const FieldDescriptor& field,
                           Message* message) {
  CHECK(field.is_repeated() && field.cpp_type() == FieldDescriptor::CPPTYPE_STRING);
  if (values.size() > kMostListValues) {
    return absl::InvalidArgumentError(
        absl::StrCat("too many values: give at most ", kMostListValues));
  }
  for (const std::string& value : values) {
    RETURN_IF_ERROR(CheckText(value, field));
    // Flags and the environment write a list with them.
    if (value.empty() || value.find(',') != std::string::npos) {
      return Wrong(value, "no value of a list", "text without a comma");
    }
  }
  const auto* reflection = message->GetReflection();
  reflection->ClearField(message, &field);
  for (const std::string& value : values) reflection->AddString(message, &field, value);
  return absl::OkStatus();
}

std::string FormatOption(const Message& message, const FieldDescriptor& field) {
  const auto* reflection = message.GetReflection();
  if (field.is_repeated()) {
    return absl::StrJoin(reflection->GetRepeatedFieldRef<std::string>(message, &field), ",");
  }
  uint64_t whole = 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(message, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection->GetString(message, &field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return FormatNumber(reflection->GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      whole = reflection->GetUInt32(message, &field);
      break;
    case FieldDescriptor::CPPTYPE_UINT64:
      whole = reflection->GetUInt64(message, &field);
      break;
    default:
      LOG(FATAL) << field.full_name() << " has a type that no option has";
  }
  switch (OptionOf(field).unit()) {
    case BYTES:
      return FormatBytes(whole);
    case DURATION:
      return FormatMilliseconds(whole);
    default:
      return absl::StrCat(whole);
  }
}

void SetDefaults(Message* message) {
  const Descriptor& type = *message->GetDescriptor();
  message->Clear();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string& text = OptionOf(field).default_value();
    const bool is_number = field.cpp_type() != FieldDescriptor::CPPTYPE_STRING &&
                           field.cpp_type() != FieldDescriptor::CPPTYPE_BOOL;
    if (text.empty() && !is_number) continue;
    const absl::Status status = SetOption(text, field, message);
    CHECK(status.ok()) << "the default of " << field.full_name() << ": " << status.message();
  }
}

}  // namespace tessera::config
