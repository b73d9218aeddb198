// One Fetch RPC. Includes gRPC: only for the client's .cc files.
#ifndef TESSERA_CACHE_SERVER_CLIENT_FETCH_CALL_H_
#define TESSERA_CACHE_SERVER_CLIENT_FETCH_CALL_H_

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "cache_server/chunk/key.h"
#include "cache_server/client/call_outcome.h"
#include "cache_server/client/fetch_progress.h"

namespace tessera {

struct FetchCallOptions {
  absl::Time deadline;
  bool stop_at_first_miss = false;
  std::string token;       // empty: none
  std::string request_id;  // AddRequestId
  // Told of keys whose bytes were wrong; on gRPC's threads, must not wait.
  std::function<void(const ChunkKey&)> on_damaged;
};

// Fetches the targets [first, end) of a FetchProgress: reads, copies and verifies on gRPC's
// threads, so that a thread that waits for a slice only waits. It must live until its end; the
// destructor sees to it.
class FetchCall : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Starts the call. `progress` must outlive it.
  FetchCall(grpc::GenericStub* stub, FetchProgress* progress, size_t first, size_t end,
            const FetchCallOptions& options, std::shared_ptr<CallOutcomes> outcomes);

  // Cancels what is still travelling, and waits until nobody writes to the targets any more.
  ~FetchCall() override;

  size_t first() const { return first_; }
  size_t end() const { return end_; }

  // Begins to cancel, because the caller wants no more: says nothing about the server.
  void Abandon();
  // Begins to cancel, because the server is too slow.
  void GiveUp();

 private:
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  // Takes in the message that was read.
  absl::Status TakeMessage();
  absl::Status TakeHeader(const ReceivedMessage& message);

  FetchProgress* const progress_;
  const size_t first_;
  const size_t end_;
  const FetchCallOptions options_;
  const std::shared_ptr<CallOutcomes> outcomes_;
  std::atomic<bool> abandoned_ = false;
  std::atomic<bool> given_up_ = false;
  bool broken_ = false;  // by what we read; only touched on gRPC's threads, one after the other
  grpc::ClientContext context_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  absl::Notification done_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_FETCH_CALL_H_
