#include "gateway/http/target.h"

namespace tessera::http {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Broken escapes stay as they are.
std::string Unescaped(std::string_view text, bool plus_is_space) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '%' && i + 2 < text.size();
    const int high = escape ? HexDigit(text[i + 1]) : -1;
    const int low = escape ? HexDigit(text[i + 2]) : -1;
    if (high < 0 || low < 0) {
      out += plus_is_space && text[i] == '+' ? ' ' : text[i];
      continue;
    }
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

}  // namespace

std::string PathOf(std::string_view target) {
  // A proxy may send the absolute form, "http://host/path".
  const size_t scheme = target.find("://");
  if (scheme != std::string_view::npos && target.front() != '/') {
    const size_t path = target.find('/', scheme + 3);
    target = path == std::string_view::npos ? "/" : target.substr(path);
  }
  return Unescaped(target.substr(0, target.find_first_of("?#")), /*plus_is_space=*/false);
}

std::vector<std::pair<std::string, std::string>> QueryOf(std::string_view target) {
  std::vector<std::pair<std::string, std::string>> pairs;
  target = target.substr(0, target.find('#'));
  size_t begin = target.find('?');
  while (begin != std::string_view::npos) {
    const std::string_view rest = target.substr(begin + 1);
    const size_t end = rest.find('&');
    const std::string_view pair = rest.substr(0, end);
    const size_t equals = pair.find('=');
    if (!pair.empty()) {
      const std::string_view value =
          equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1);
      pairs.emplace_back(Unescaped(pair.substr(0, equals), true), Unescaped(value, true));
    }
    begin = end == std::string_view::npos ? end : begin + 1 + end;
  }
  return pairs;
}

}  // namespace tessera::http
