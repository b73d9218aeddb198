#include "gpu_worker/calibrate/sink_name.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace tessera {

absl::StatusOr<SinkKind> ParseSink(const std::string& name) {
  for (const SinkKind sink : {SinkKind::kBos, SinkKind::kLead, SinkKind::kNone}) {
    if (SinkName(sink) == name) return sink;
  }
  return absl::InvalidArgumentError(absl::StrCat("sink '", absl::CHexEscape(name.substr(0, 64)),
                                                 "' is unknown: use bos, lead or none"));
}

std::string SinkName(SinkKind sink) {
  switch (sink) {
    case SinkKind::kBos:
      return "bos";
    case SinkKind::kLead:
      return "lead";
    case SinkKind::kNone:
      return "none";
  }
  return "";
}

}  // namespace tessera
