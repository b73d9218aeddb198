// LMCache's names for options of ours: in the environment with LMCACHE_ in front, and in a YAML
// file of LMCache's that LMCACHE_CONFIG_FILE names.
#ifndef TESSERA_BASE_CONFIG_LMCACHE_H_
#define TESSERA_BASE_CONFIG_LMCACHE_H_

#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/config/command_line.h"
#include "google/protobuf/descriptor.h"

namespace tessera::config {

inline constexpr absl::string_view kLmcachePrefix = "LMCACHE_";
inline constexpr absl::string_view kLmcacheFile = "LMCACHE_CONFIG_FILE";

// What an option of LMCache is here.
struct LmcacheMeaning {
  // Options of the program, and their text as SetOption takes it. Several may be set by one.
  std::vector<Setting> settings;
  // If not empty: nothing takes it, and why.
  std::string ignored;
  // If not empty: what is wrong with the value, and what to give.
  std::string error;
};

// `name` is as in LMCache's YAML file; `values` one, or those of a list. An option that another of
// our programs takes (their messages are declared in the same file) means nothing to this one, and
// for the options in `decided` the values are not looked at.
LmcacheMeaning MeaningOf(const std::string& name, const std::vector<std::string>& values,
                         const google::protobuf::Descriptor& type,
                         const std::set<const google::protobuf::FieldDescriptor*>& decided);

// LMCache's names of the options of a program, once each, in the order in which they are to be
// applied.
std::vector<std::string> LmcacheNames(const google::protobuf::Descriptor& type);

}  // namespace tessera::config

#endif  // TESSERA_BASE_CONFIG_LMCACHE_H_
