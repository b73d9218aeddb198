#include "base/grpc_log.h"

#include <grpc/support/log.h>

#include "base/log.h"

namespace tessera {

void QuietGrpc() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    LOG_EVENT(kDebug, "grpc")
        .With("severity", gpr_log_severity_string(line->severity))
        .With("file", line->file)
        .With("line", line->line)
        .With("msg", line->message);
  });
}

}  // namespace tessera
