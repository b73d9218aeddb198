#include "cache_server/client/background_calls.h"

#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "cache_server/client/channel.h"

namespace tessera {
namespace {

constexpr size_t kMostCalls = 16;
constexpr absl::Duration kDeleteTimeout = absl::Seconds(5);

}  // namespace

// What a call needs until its callback has run.
template <typename Request, typename Response>
struct BackgroundCalls::Call {
  std::unique_ptr<grpc::ClientContext> context;
  Request request;
  Response response;
};

BackgroundCalls::~BackgroundCalls() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  for (grpc::ClientContext* context : open_) context->TryCancel();
  auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return open_.empty(); };
  mutex_.Await(absl::Condition(&none));
}

std::unique_ptr<grpc::ClientContext> BackgroundCalls::Begin(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  if (stopping_ || open_.size() >= kMostCalls) return nullptr;
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  AddToken(token_, context.get());
  open_.insert(context.get());
  return context;
}

// The context holds on to its channel, and this is a thread of gRPC's. If it were the one to drop
// the process's last channel, it would wait for itself, and then work with what it has freed. So
// the context goes before the destructor, whose thread has another hold on the channel, may go on.
void BackgroundCalls::End(std::unique_ptr<grpc::ClientContext> context) {
  absl::MutexLock lock(&mutex_);
  open_.erase(context.get());
  context = nullptr;
}

void BackgroundCalls::Delete(const ChunkKey& key) {
  using DeleteCall = Call<cache::v1::DeleteRequest, cache::v1::DeleteResponse>;
  auto call = std::make_shared<DeleteCall>();
  call->context = Begin(kDeleteTimeout);
  if (call->context == nullptr) return;  // the next reader finds it again
  call->request.add_keys(std::string(key.AsBytes()));
  stub_.async()->Delete(
      call->context.get(), &call->request, &call->response,
      [this, call](const grpc::Status& status) {
        if (!status.ok()) {
          LOG_EVENT_LIMITED(kWarning, "delete_failed").With("error", status.error_message());
        }
        End(std::move(call->context));
      });
}

void BackgroundCalls::GetCapabilities(absl::Duration timeout,
                                      std::function<void(Capabilities)> done) {
  using AskCall = Call<cache::v1::GetCapabilitiesRequest, cache::v1::GetCapabilitiesResponse>;
  auto call = std::make_shared<AskCall>();
  call->context = Begin(timeout);
  if (call->context == nullptr) return done(absl::ResourceExhaustedError("too many calls"));
  stub_.async()->GetCapabilities(
      call->context.get(), &call->request, &call->response,
      [this, call, done = std::move(done)](const grpc::Status& status) {
        if (status.ok()) {
          done(std::move(call->response));
        } else {
          done(absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                            status.error_message()));
        }
        End(std::move(call->context));
      });
}

}  // namespace tessera
