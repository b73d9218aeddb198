// Request ids in log lines.
#ifndef TESSERA_GPU_WORKER_SERVE_SHOWN_ID_H_
#define TESSERA_GPU_WORKER_SERVE_SHOWN_ID_H_

#include <string>

#include "absl/strings/escaping.h"

namespace tessera {

// A request's id, which is the client's, as it is logged: escaped, and at most 128 bytes of it.
inline std::string ShownId(const std::string& request_id) {
  return absl::CHexEscape(request_id.substr(0, 128));
}

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_SHOWN_ID_H_
