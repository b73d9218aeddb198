#include "base/config/options.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "glog/logging.h"

namespace tessera::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// Insertions, removals, replacements and swaps of neighbours that make `b` of `a`.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> steps(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) steps[i][0] = i;
  std::iota(steps[0].begin(), steps[0].end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      steps[i][j] =
          std::min({steps[i - 1][j] + 1, steps[i][j - 1] + 1, steps[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        steps[i][j] = std::min(steps[i][j], steps[i - 2][j - 2] + 1);
      }
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
  // Longer ones are no misspelling, and each costs time by its length.
  const std::string wanted = absl::AsciiStrToLower(name.substr(0, 64));
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
