// Values of options: read, checked, and written.
#ifndef TESSERA_BASE_CONFIG_OPTION_VALUE_H_
#define TESSERA_BASE_CONFIG_OPTION_VALUE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace tessera::config {

// Most bytes of one value, and values of one list.
inline constexpr size_t kMostValueBytes = 4096;
inline constexpr size_t kMostListValues = 1024;

// Sets an option to what `text` says, as flags and the environment write it: true, 12, 0.5, 4GiB,
// 15s; lists comma-separated. INVALID_ARGUMENT says what is wrong and what it takes, not where.
absl::Status SetOption(absl::string_view text, const google::protobuf::FieldDescriptor& field,
                       google::protobuf::Message* message);

// The same for a list, value by value.
absl::Status SetListOption(const std::vector<std::string>& values,
                           const google::protobuf::FieldDescriptor& field,
                           google::protobuf::Message* message);

// The value of an option as SetOption takes it; lists comma-separated.
std::string FormatOption(const google::protobuf::Message& message,
                         const google::protobuf::FieldDescriptor& field);

// Sets all options to their defaults.
void SetDefaults(google::protobuf::Message* message);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_OPTION_VALUE_H_
