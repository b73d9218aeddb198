#include "gateway/live/live_page.h"

#include <xxhash.h>

#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "glog/logging.h"

namespace tessera {
namespace {

constexpr char kPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct FileType {
  std::string_view suffix;
  std::string_view content_type;
};

constexpr FileType kTypes[] = {
    {".html", "text/html; charset=utf-8"},
    {".css", "text/css; charset=utf-8"},
    {".js", "text/javascript; charset=utf-8"},
    {".svg", "image/svg+xml"},
};

std::string_view ContentTypeOf(std::string_view name) {
  const auto* const type =
      std::find_if(std::begin(kTypes), std::end(kTypes),
                   [&](const FileType& known) { return name.ends_with(known.suffix); });
  CHECK(type != std::end(kTypes)) << name;
  return type->content_type;
}

std::string EtagOf(std::string_view text) {
  return absl::StrCat("\"", absl::Hex(XXH3_64bits(text.data(), text.size()), absl::kZeroPad16),
                      "\"");
}

// Weak tags, as a proxy that compresses makes them, match too.
bool Matches(std::string_view if_none_match, const std::string& etag) {
  return if_none_match == "*" ||
         absl::StrContains(absl::string_view(if_none_match.data(), if_none_match.size()), etag);
}

}  // namespace

LivePage::LivePage() {
  for (const LiveFile& file : LiveFiles()) {
    const std::string path =
        file.name == "index.html" ? std::string("/") : "/live/" + std::string(file.name);
    files_[path] = {file.text, ContentTypeOf(file.name), EtagOf(file.text)};
  }
}

http::Response LivePage::Get(const http::Request& request) const {
  const auto found = files_.find(std::string_view(request.path));
  CHECK(found != files_.end()) << request.path;
  const Served& file = found->second;
  http::Response response;
  response.headers = {{"ETag", file.etag},
                      {"Cache-Control", "no-cache"},
                      {"Content-Security-Policy", kPolicy},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"}};
  if (Matches(request.Header("if-none-match"), file.etag)) {
    response.status = 304;
    response.content_type.clear();
    return response;
  }
  response.content_type = file.content_type;
  response.body = file.text;
  return response;
}

}  // namespace tessera
