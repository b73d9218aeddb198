#include "gpu_worker/serve/chunk_call.h"

#include <string>

#include "gpu_worker/serve/generate_call.h"

namespace tessera {

void ChunkCall::End(const absl::StatusOr<ChunkReport>& report) {
  absl::MutexLock lock(&mutex_);
  if (ended_) return;
  ended_ = true;
  if (report.ok()) {
    response_->set_chunk_key(std::string(report->key.AsBytes()));
    for (const ChunkKey& key : report->piece_keys) {
      response_->add_piece_keys(std::string(key.AsBytes()));
    }
    response_->set_bytes(report->bytes);
    response_->set_tokens(report->tokens);
    response_->set_cached_tokens(report->cached_tokens);
    response_->set_rejected_pieces(report->rejected_pieces);
  }
  Finish(ToGrpc(report.status()));
}

void ChunkCall::OnCancel() {
  cancelled_->Set();
  End(absl::CancelledError("the request was cancelled"));
}

}  // namespace tessera
