#include "base/config/options.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "glog/logging.h"

namespace tessera::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

constexpr size_t kMostLetters = 64;

// Insertions, removals, replacements and swaps of neighbours that make `b` of `a`; of both the
// first kMostLetters count.
size_t Distance(absl::string_view a, absl::string_view b) {
  a = a.substr(0, kMostLetters);
  b = b.substr(0, kMostLetters);
  std::array<std::array<uint8_t, kMostLetters + 1>, kMostLetters + 1> steps;
  for (size_t i = 0; i <= a.size(); ++i) steps[i][0] = static_cast<uint8_t>(i);
  for (size_t j = 0; j <= b.size(); ++j) steps[0][j] = static_cast<uint8_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = a[i - 1] == b[j - 1];
      int fewest = std::min(
          {steps[i - 1][j] + 1, steps[i][j - 1] + 1, steps[i - 1][j - 1] + (same ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        fewest = std::min(fewest, steps[i - 2][j - 2] + 1);
      }
      steps[i][j] = static_cast<uint8_t>(fewest);
    }
  }
  return steps[a.size()][b.size()];
}

}  // namespace

const Program& ProgramOf(const Descriptor& type) {
  CHECK(type.options().HasExtension(program)) << type.full_name();
  return type.options().GetExtension(program);
}

const Option& OptionOf(const FieldDescriptor& field) {
  CHECK(field.options().HasExtension(option)) << field.full_name();
  return field.options().GetExtension(option);
}

std::string EnvironmentName(const FieldDescriptor& field) {
  return absl::StrCat(ProgramOf(*field.containing_type()).environment(),
                      absl::AsciiStrToUpper(field.name()));
}

std::string NearestName(absl::string_view name, const Descriptor& type,
                        const std::vector<std::string>& others) {
  const std::string wanted = absl::AsciiStrToLower(name.substr(0, kMostLetters));
  std::string nearest;
  size_t fewest = std::numeric_limits<size_t>::max();
  const auto consider = [&](const std::string& candidate) {
    // Who wrote the start of a name, or more than the name, meant that one.
    const bool starts = absl::StartsWith(candidate, wanted) || absl::StartsWith(wanted, candidate);
    const size_t distance = starts && wanted.size() >= 3 ? 1 : Distance(wanted, candidate);
    if (distance < fewest) {
      fewest = distance;
      nearest = candidate;
    }
  };
  for (int i = 0; i < type.field_count(); ++i) consider(type.field(i)->name());
  for (const std::string& other : others) consider(other);
  return nearest;
}

std::string RangeOf(const FieldDescriptor& field) {
  const Option& option = OptionOf(field);
  if (!option.min().empty() && !option.max().empty()) {
    return absl::StrCat(option.min(), " to ", option.max());
  }
  std::vector<std::string> bounds;
  if (!option.above().empty()) bounds.push_back(absl::StrCat("more than ", option.above()));
  if (!option.min().empty()) bounds.push_back(absl::StrCat("at least ", option.min()));
  if (!option.max().empty()) bounds.push_back(absl::StrCat("at most ", option.max()));
  return absl::StrJoin(bounds, " and ");
}

std::string FormOf(const FieldDescriptor& field) {
  const Option& option = OptionOf(field);
  if (field.is_repeated()) return "TEXT,...";
  if (!option.choices().empty()) return absl::StrJoin(option.choices(), "|");
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) return "true|false";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) return "TEXT";
  if (option.unit() == BYTES) return "BYTES";
  return option.unit() == DURATION ? "DURATION" : "NUMBER";
}

}  // namespace tessera::config
