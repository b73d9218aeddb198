// Names of requests on their way to a cache server.
#ifndef TESSERA_CACHE_SERVER_CLIENT_REQUEST_ID_H_
#define TESSERA_CACHE_SERVER_CLIENT_REQUEST_ID_H_

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"

namespace tessera {

// Whether a header can carry it: not empty, at most 128 bytes, visible ASCII.
inline bool IsSendableId(const std::string& request_id) {
  constexpr size_t kMostBytes = 128;
  return !request_id.empty() && request_id.size() <= kMostBytes &&
         std::all_of(request_id.begin(), request_id.end(),
                     [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); });
}

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_REQUEST_ID_H_
