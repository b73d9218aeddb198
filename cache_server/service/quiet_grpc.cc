#include "cache_server/service/quiet_grpc.h"

#include <grpc/support/log.h>

#include "glog/logging.h"

namespace tessera {

void QuietGrpc() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    VLOG(1) << "event=grpc file=" << line->file << " line=" << line->line << " message=\""
            << line->message << "\"";
  });
}

}  // namespace tessera
