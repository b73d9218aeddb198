#include "gpu_worker/serve/worker_service.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <chrono>
#include <memory>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "gpu_worker/serve/chunk_call.h"
#include "gpu_worker/serve/generate_call.h"
#include "gpu_worker/serve/request_check.h"
#include "gpu_worker/serve/watch_call.h"
#include "proto/health.pb.h"
#include "proto/worker.grpc.pb.h"

namespace tessera {
namespace {

using worker::v1::ChunkChanges;
using worker::v1::GenerateRequest;
using worker::v1::GenerateResponse;
using worker::v1::PrefillChunkRequest;
using worker::v1::PrefillChunkResponse;
using worker::v1::WatchChunksRequest;

void LogRefused(const std::string& request_id, const absl::Status& status) {
  LOG_EVENT_LIMITED(kInfo, "request_refused").With("request", request_id).WithError(status);
}

class WorkerService final : public worker::v1::Worker::CallbackService {
 public:
  WorkerService(const ServedModel& served, const ServiceParts& parts)
      : served_(served),
        decoder_(*parts.decoder),
        defaults_(*parts.defaults),
        engine_(*parts.engine),
        metrics_(parts.metrics),
        drift_(parts.drift),
        residents_(parts.residents) {}

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const worker::v1::GetModelRequest*,
                                     worker::v1::GetModelResponse* response) override {
    const ModelConfig& model = decoder_.config();
    response->set_name(served_.name);
    response->set_max_len(decoder_.max_len());
    response->set_vocab_size(model.vocab);
    for (uint32_t id : model.eos_token_ids) response->add_eos_token_ids(id);
    response->set_fingerprint(served_.fingerprint);
    response->set_device(decoder_.ops().name());
    response->set_instance_id(instance_id_);
    response->set_blend_enabled(served_.blend_enabled);
    response->set_calibration(served_.calibration);
    const EngineStats stats = engine_.stats();
    response->set_running_requests(static_cast<uint32_t>(stats.running));
    response->set_waiting_requests(static_cast<uint32_t>(stats.waiting));
    auto& blend = *response->mutable_default_blend();
    blend.set_mode(served_.blend_enabled ? worker::v1::AUTO : worker::v1::EXACT);
    blend.set_policy(defaults_.policy.name());
    blend.set_recompute_ratio(defaults_.recompute_ratio);
    blend.set_correction(defaults_.correction.value_or(defaults_.policy.corrects_by_default()));
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerWriteReactor<GenerateResponse>* Generate(grpc::CallbackServerContext*,
                                                       const GenerateRequest* request) override {
    auto call = std::make_shared<GenerateCall>();
    call->HoldUntilDone();
    const absl::Status status = Submit(*request, call);
    if (!status.ok()) {
      LogRefused(request->request_id(), status);
      if (metrics_ != nullptr) metrics_->CountRefused(status);
      call->End(status);
    }
    return call.get();
  }

  grpc::ServerUnaryReactor* PrefillChunk(grpc::CallbackServerContext*,
                                         const PrefillChunkRequest* request,
                                         PrefillChunkResponse* response) override {
    auto call = std::make_shared<ChunkCall>(response);
    call->HoldUntilDone();
    const absl::Status status = Submit(*request, call);
    if (!status.ok()) {
      LogRefused(request->request_id(), status);
      call->End(status);
    }
    return call.get();
  }

  grpc::ServerWriteReactor<ChunkChanges>* WatchChunks(grpc::CallbackServerContext* context,
                                                      const WatchChunksRequest* request) override {
    if (residents_ == nullptr) {
      return worker::v1::Worker::CallbackService::WatchChunks(context, request);
    }
    return new WatchCall(residents_);
  }

 private:
  absl::Status Submit(const GenerateRequest& request, const std::shared_ptr<GenerateCall>& call) {
    ASSIGN_OR_RETURN(std::unique_ptr<Generation> generation,
                     CheckRequest(request, decoder_.config(), decoder_.max_len(), defaults_,
                                  served_.blend_enabled));
    generation->cancelled = call->cancelled();
    generation->listener = MakeCallListener(call, &generation->prompt);
    if (metrics_ != nullptr) {
      generation->listener = metrics_->Metered(std::move(generation->listener), generation.get());
    }
    if (drift_ != nullptr) {
      generation->listener = drift_->Sampled(std::move(generation->listener), generation.get());
    }
    return engine_.Submit(std::move(generation));
  }

  absl::Status Submit(const PrefillChunkRequest& request, const std::shared_ptr<ChunkCall>& call) {
    RETURN_IF_ERROR(CanPrefillChunks());
    ASSIGN_OR_RETURN(std::unique_ptr<ChunkWork> work,
                     CheckRequest(request, decoder_.config(), decoder_.max_len()));
    work->cancelled = call->cancelled();
    work->done = [call](const absl::StatusOr<ChunkReport>& report) { call->End(report); };
    return engine_.Submit(std::move(work));
  }

  absl::Status CanPrefillChunks() const {
    if (!served_.blend_enabled) {
      return absl::FailedPreconditionError("blending is off here: chunks would not be used");
    }
    if (!served_.has_cache) {
      return absl::FailedPreconditionError("this worker has no cache to store chunks in");
    }
    if (defaults_.sink == SinkKind::kLead) {
      return absl::FailedPreconditionError("chunks depend on the prompt's lead: sink is `lead`");
    }
    return absl::OkStatus();
  }

  const ServedModel served_;
  // Says which process this is, to who knows one that served here before.
  const std::string instance_id_ =
      absl::StrCat(absl::Hex(std::random_device()()), absl::Hex(std::random_device()()));
  const Decoder& decoder_;
  const BlendConfig& defaults_;
  Engine& engine_;
  WorkerMetrics* const metrics_;
  DriftSampler* const drift_;
  ResidentChunks* const residents_;  // may be null
};

class GrpcWorkerServer final : public WorkerServer {
 public:
  GrpcWorkerServer(const ServedModel& served, const ServiceParts& parts)
      : service_(served, parts) {}
  ~GrpcWorkerServer() override { Shutdown(); }

  absl::Status Start(const std::string& address) {
    grpc::EnableDefaultHealthCheckService(true);
    // Makes the linker keep the descriptor that reflection shows for the health service.
    (void)grpc::health::v1::HealthCheckRequest::descriptor();
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // Token ids of the longest prompt, with room to spare.
    builder.SetMaxReceiveMessageSize(16 << 20);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return absl::UnavailableError("cannot listen on " + address +
                                    ": the address is taken or not ours");
    }
    server_->GetHealthCheckService()->SetServingStatus(worker::v1::Worker::service_full_name(),
                                                       true);
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  void Shutdown() override {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    server_->Wait();
    server_.reset();
  }

 private:
  WorkerService service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerServer>> StartWorkerServer(const std::string& address,
                                                                const ServedModel& served,
                                                                const ServiceParts& parts) {
  auto server = std::make_unique<GrpcWorkerServer>(served, parts);
  RETURN_IF_ERROR(server->Start(address));
  return server;
}

}  // namespace tessera
