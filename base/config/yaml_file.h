// The part of YAML that configurations are written in: one map of names to values and lists of
// values. Values keep their text and whether they were quoted; whoever knows the option types them.
#ifndef TESSERA_BASE_CONFIG_YAML_FILE_H_
#define TESSERA_BASE_CONFIG_YAML_FILE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace tessera::config {

struct YamlValue {
  std::string text;
  bool quoted = false;  // or a block: text, whatever it looks like
};

struct YamlEntry {
  // Nothing ("name:"), a value, a list of values, or something deeper, which is not kept.
  enum class Kind { kNull, kValue, kList, kOther };

  std::string name;
  int line = 0;  // of the name, from 1
  Kind kind = Kind::kNull;
  std::vector<YamlValue> values;  // one, or those of the list
};

struct YamlFile {
  std::vector<YamlEntry> entries;  // in the file's order, each name once
  // "LINE: what is wrong and what to change", for every mistake up to the first that ends the
  // reading. When there are some, the entries are not to be used.
  std::vector<std::string> errors;
};

inline constexpr size_t kMostYamlBytes = size_t{1} << 20;

// Mistakes: more than 1 MiB, not UTF-8, not YAML, no map, a name twice or that is no text, anchors,
// aliases, tags, a second document, nesting deeper than 16. No text at all is no entry.
YamlFile ReadYaml(absl::string_view text);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_YAML_FILE_H_
