#include "base/config/text.h"

#include <utf8proc.h>

#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace tessera::config {
namespace {

constexpr size_t kMostQuoted = 64;

// The bytes of the code point that `text` starts with; 0 when it is not UTF-8.
size_t Decode(absl::string_view text, int32_t* code_point) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto size = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size()), code_point);
  return size > 0 ? static_cast<size_t>(size) : 0;
}

// What YAML does not take as it is, or what readers may take for the end of a line.
bool IsSpecial(int32_t code_point) {
  return code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0) || code_point == 0x2028 ||
         code_point == 0x2029 || code_point == 0xfeff || (code_point & 0xfffe) == 0xfffe;
}

}  // namespace

bool IsPlainUtf8(absl::string_view text) {
  while (!text.empty()) {
    int32_t code_point = 0;
    const size_t size = Decode(text, &code_point);
    if (size == 0 || code_point == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

std::string Quoted(absl::string_view text) {
  const bool cut = text.size() > kMostQuoted;
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(text.substr(0, kMostQuoted)), cut ? "..." : "",
                      "'");
}

std::string YamlString(absl::string_view text) {
  std::string yaml = "\"";
  while (!text.empty()) {
    int32_t code_point = 0;
    const size_t size = Decode(text, &code_point);
    if (size == 0) break;
    if (code_point == '\n') {
      yaml += "\\n";
    } else if (code_point == '"' || code_point == '\\') {
      absl::StrAppend(&yaml, "\\", text.substr(0, 1));
    } else if (!IsSpecial(code_point)) {
      yaml.append(text.data(), size);
    } else {
      absl::StrAppendFormat(&yaml, "\\U%08x", static_cast<uint32_t>(code_point));
    }
    text.remove_prefix(size);
  }
  return yaml + "\"";
}

std::string Wrapped(absl::string_view text, absl::string_view indent, size_t width) {
  std::string all;
  std::string line;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!line.empty() && indent.size() + line.size() + 1 + word.size() > width) {
      absl::StrAppend(&all, indent, line, "\n");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  if (!line.empty()) absl::StrAppend(&all, indent, line, "\n");
  return all;
}

}  // namespace tessera::config
