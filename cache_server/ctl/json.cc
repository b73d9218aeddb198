#include "cache_server/ctl/json.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "glog/logging.h"

namespace tessera::ctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// One value of a field; `index` is -1 unless the field is repeated.
class FieldValue {
 public:
  FieldValue(const Message& message, const FieldDescriptor* field, int index)
      : message_(message), field_(field), reflection_(*message.GetReflection()), index_(index) {}

  boost::json::value ToJson() const {
    switch (field_->cpp_type()) {
      case FieldDescriptor::CPPTYPE_UINT32:
        return Get(&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32);
      case FieldDescriptor::CPPTYPE_UINT64:
        return Get(&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64);
      case FieldDescriptor::CPPTYPE_BOOL:
        return Get(&Reflection::GetBool, &Reflection::GetRepeatedBool);
      case FieldDescriptor::CPPTYPE_ENUM: {
        const auto* value = Get(&Reflection::GetEnum, &Reflection::GetRepeatedEnum);
        return boost::json::value_from(absl::AsciiStrToLower(value->name()));
      }
      case FieldDescriptor::CPPTYPE_STRING:
        return boost::json::value_from(Text());
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return ctl::ToJson(index_ < 0 ? reflection_.GetMessage(message_, field_)
                                      : reflection_.GetRepeatedMessage(message_, field_, index_));
      default:
        LOG(FATAL) << "no JSON for field " << field_->full_name();
    }
  }

  // Of a string or bytes field.
  std::string Text() const {
    const std::string text = Get(&Reflection::GetString, &Reflection::GetRepeatedString);
    return field_->type() == FieldDescriptor::TYPE_BYTES ? absl::BytesToHexString(text) : text;
  }

 private:
  template <typename T>
  T Get(T (Reflection::*one)(const Message&, const FieldDescriptor*) const,
        T (Reflection::*of_many)(const Message&, const FieldDescriptor*, int) const) const {
    return index_ < 0 ? (reflection_.*one)(message_, field_)
                      : (reflection_.*of_many)(message_, field_, index_);
  }

  const Message& message_;
  const FieldDescriptor* const field_;
  const Reflection& reflection_;
  const int index_;
};

// A map is a list of pairs to reflection.
boost::json::object MapToJson(const Message& message, const FieldDescriptor* field) {
  boost::json::object object;
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
    const Message& pair = reflection.GetRepeatedMessage(message, field, i);
    const std::string key = FieldValue(pair, field->message_type()->map_key(), -1).Text();
    object[key] = FieldValue(pair, field->message_type()->map_value(), -1).ToJson();
  }
  return object;
}

boost::json::array ListToJson(const Message& message, const FieldDescriptor* field) {
  boost::json::array array;
  for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
    array.push_back(FieldValue(message, field, i).ToJson());
  }
  return array;
}

}  // namespace

boost::json::object ToJson(const Message& message) {
  boost::json::object object;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    boost::json::value& value = object[field->name()];
    if (field->is_map()) {
      value = MapToJson(message, field);
    } else if (field->is_repeated()) {
      value = ListToJson(message, field);
    } else {
      value = FieldValue(message, field, -1).ToJson();
    }
  }
  return object;
}

}  // namespace tessera::ctl
