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

class GrpcModelCall final : public WorkerCall {
 public:
  GrpcModelCall(v1::Worker::Stub* stub, absl::Time deadline, WorkerClient::ModelCallback done)
      : done_(std::move(done)) {
    context_.set_deadline(absl::ToChronoTime(deadline));
    stub->async()->GetModel(&context_, &request_, &response_, [this](const grpc::Status& status) {
      // Local copies: the callback may destroy this object.
      const WorkerClient::ModelCallback done = std::move(done_);
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
  v1::GetModelRequest request_;
  v1::GetModelResponse response_;
  WorkerClient::ModelCallback done_;
};

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
    return std::make_unique<GrpcModelCall>(stub_.get(), deadline, std::move(done));
  }

  std::unique_ptr<WorkerCall> Generate(const v1::GenerateRequest& request, absl::Time deadline,
                                       GenerateListener* listener) override {
    return std::make_unique<GrpcGenerateCall>(stub_.get(), request, deadline, listener);
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
