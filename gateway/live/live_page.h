// The live page at "/": its files, for browsers. They carry no data; the page fetches that from the
// API, with the key of who looks at it.
#ifndef TESSERA_GATEWAY_LIVE_LIVE_PAGE_H_
#define TESSERA_GATEWAY_LIVE_LIVE_PAGE_H_

#include <map>
#include <string>
#include <string_view>

#include "gateway/http/message.h"
#include "gateway/live/live_files.h"

namespace tessera {

// Immutable.
class LivePage {
 public:
  LivePage();

  // Whether the path is the page's: "/", and "/live/NAME" for each of its other files.
  bool Has(std::string_view path) const { return files_.contains(path); }

  // Answers a GET or HEAD of one of its paths: the file, or 304 where the browser has it. A browser
  // asks again each time, so that a new gateway's page is never mixed with an old one's. Nothing
  // but the page's own scripts and styles may run in it, and no other site may frame it.
  http::Response Get(const http::Request& request) const;

 private:
  struct Served {
    std::string_view text;
    std::string_view content_type;
    std::string etag;  // in quotes
  };
  std::map<std::string, Served, std::less<>> files_;  // by path
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_LIVE_LIVE_PAGE_H_
