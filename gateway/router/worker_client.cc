#include "gateway/router/worker_client.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/grpcpp.h"
#include "proto/worker.grpc.pb.h"

namespace tessera {
namespace {

namespace v1 = worker::v1;

// After a failure, how soon and at the latest a channel connects again. gRPC's own limit of two
// minutes would leave a worker that came back unused for that long.
constexpr int kFirstReconnectMs = 100;
constexpr int kLastReconnectMs = 1000;

// The codes of gRPC and of absl::Status are the same numbers.
absl::Status ToAbsl(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

// A call with one answer.
template <typename Request, typename Response>
class GrpcUnaryCall final : public WorkerCall {
 public:
  using Callback = std::function<void(absl::StatusOr<Response>)>;
  using Method = void (v1::Worker::Stub::async::*)(grpc::ClientContext*, const Request*, Response*,
                                                   std::function<void(grpc::Status)>);

  // The request is serialized here; it need not live longer.
  GrpcUnaryCall(v1::Worker::Stub* stub, Method method, const Request& request, absl::Time deadline,
                Callback done)
      : done_(std::move(done)) {
    context_.set_deadline(absl::ToChronoTime(deadline));
    (stub->async()->*method)(&context_, &request, &response_, [this](const grpc::Status& status) {
      // Local: the callback may destroy this object.
      const Callback done = std::move(done_);
      if (status.ok()) {
        done(std::move(response_));
      } else {
        done(ToAbsl(status));
      }
    });
  }

  void Cancel() override { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  Response response_;
  Callback done_;
};

using ModelCall = GrpcUnaryCall<v1::GetModelRequest, v1::GetModelResponse>;
using ChunkCall = GrpcUnaryCall<v1::PrefillChunkRequest, v1::PrefillChunkResponse>;

class GrpcGenerateCall final : public WorkerCall,
                               public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  GrpcGenerateCall(v1::Worker::Stub* stub, const v1::GenerateRequest& request, absl::Time deadline,
                   GenerateListener* listener)
      : listener_(listener) {
    context_.set_deadline(absl::ToChronoTime(deadline));
    // The request is serialized here; it need not live longer.
    stub->async()->Generate(&context_, &request, this);
    StartRead(&event_);
    StartCall();
  }

  void Cancel() override { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    listener_->OnEvent(event_);
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    // The listener may destroy this object: nothing follows.
    listener_->OnDone(ToAbsl(status));
  }

 private:
  grpc::ClientContext context_;
  v1::GenerateResponse event_;
  GenerateListener* const listener_;
};

class GrpcWatchCall final : public WorkerCall, public grpc::ClientReadReactor<v1::ChunkChanges> {
 public:
  GrpcWatchCall(v1::Worker::Stub* stub, WorkerClient::ChangesCallback on_changes,
                WorkerClient::DoneCallback done)
      : on_changes_(std::move(on_changes)), done_(std::move(done)) {
    const v1::WatchChunksRequest request;
    stub->async()->WatchChunks(&context_, &request, this);
    StartRead(&changes_);
    StartCall();
  }

  void Cancel() override { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    on_changes_(changes_);
    StartRead(&changes_);
  }

  void OnDone(const grpc::Status& status) override {
    // Local: the callback may destroy this object.
    const WorkerClient::DoneCallback done = std::move(done_);
    done(ToAbsl(status));
  }

 private:
  grpc::ClientContext context_;
  v1::ChunkChanges changes_;
  const WorkerClient::ChangesCallback on_changes_;
  WorkerClient::DoneCallback done_;
};

class GrpcWorkerClient final : public WorkerClient {
 public:
  explicit GrpcWorkerClient(const std::string& address) : address_(address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLastReconnectMs);
    // A proxy variable of the environment is meant for the internet, not for a cluster's own calls.
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    stub_ = v1::Worker::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  }

  const std::string& address() const override { return address_; }

  std::unique_ptr<WorkerCall> GetModel(absl::Time deadline, ModelCallback done) override {
    constexpr ModelCall::Method kMethod = &v1::Worker::Stub::async::GetModel;
    return std::make_unique<ModelCall>(stub_.get(), kMethod, v1::GetModelRequest(), deadline,
                                       std::move(done));
  }

  std::unique_ptr<WorkerCall> Generate(const v1::GenerateRequest& request, absl::Time deadline,
                                       GenerateListener* listener) override {
    return std::make_unique<GrpcGenerateCall>(stub_.get(), request, deadline, listener);
  }

  std::unique_ptr<WorkerCall> PrefillChunk(const v1::PrefillChunkRequest& request,
                                           absl::Time deadline, ChunkCallback done) override {
    constexpr ChunkCall::Method kMethod = &v1::Worker::Stub::async::PrefillChunk;
    return std::make_unique<ChunkCall>(stub_.get(), kMethod, request, deadline, std::move(done));
  }

  std::unique_ptr<WorkerCall> WatchChunks(ChangesCallback on_changes, DoneCallback done) override {
    return std::make_unique<GrpcWatchCall>(stub_.get(), std::move(on_changes), std::move(done));
  }

 private:
  const std::string address_;
  std::unique_ptr<v1::Worker::Stub> stub_;
};

}  // namespace

std::unique_ptr<WorkerClient> ConnectWorker(const std::string& address) {
  return std::make_unique<GrpcWorkerClient>(address);
}

}  // namespace tessera
