#include "gpu_worker/serve/worker_service.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <deque>
#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/cancel_flag.h"
#include "base/status_macros.h"
#include "glog/logging.h"
#include "gpu_worker/serve/request_check.h"
#include "proto/worker.grpc.pb.h"

namespace tessera {
namespace {

using worker::v1::GenerateRequest;
using worker::v1::GenerateResponse;

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

// What is known after prefill, as the wire says it.
worker::v1::Started StartedOf(const Prefilled& prefilled, const BlendRequest& prompt,
                              absl::Duration queued, absl::Duration prefill) {
  worker::v1::Started started;
  worker::v1::PromptUsage& usage = *started.mutable_usage();
  for (const SegmentOutcome& segment : prefilled.segments) {
    const int64_t reused = segment.cached_tokens - segment.recomputed_tokens;
    worker::v1::SegmentReport& report = *started.add_segments();
    report.set_tokens(segment.tokens);
    report.set_recomputed_tokens(segment.recomputed_tokens);
    report.set_tier(segment.tier);
    report.set_source(segment.cached_tokens == 0 ? worker::v1::SegmentReport::COMPUTED
                      : segment.cached_tokens == segment.tokens
                          ? worker::v1::SegmentReport::CACHE
                          : worker::v1::SegmentReport::PARTIAL);
    usage.set_computed_tokens(usage.computed_tokens() + segment.tokens - segment.cached_tokens);
    usage.set_recomputed_tokens(usage.recomputed_tokens() + segment.recomputed_tokens);
    if (segment.exact) {
      usage.set_exact_tokens(usage.exact_tokens() + reused);
    } else {
      usage.set_blended_tokens(usage.blended_tokens() + reused);
    }
  }
  started.set_queue_us(absl::ToInt64Microseconds(queued));
  started.set_prefill_us(absl::ToInt64Microseconds(prefill));
  const bool blended = !prompt.exact && prompt.segments.size() > 1;
  started.set_policy(blended ? prompt.policy.name() : "exact");
  started.set_correction(blended && prompt.correction);
  return started;
}

// One call. gRPC owns it by `self_` until OnDone; the engine's listener holds it until OnFinished
// has returned.
class GenerateCall final : public grpc::ServerWriteReactor<GenerateResponse>,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall() : cancelled_(std::make_shared<CancelFlag>()) {}

  void HoldUntilDone() { self_ = shared_from_this(); }
  std::shared_ptr<CancelFlag> cancelled() const { return cancelled_; }

  // The queue is bounded by the tokens that the request may have.
  void Send(GenerateResponse response) {
    absl::MutexLock lock(&mutex_);
    outgoing_.push_back(std::move(response));
    if (!writing_) WriteNext();
  }

  void End(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    status_ = status;
    if (!writing_) Finish(ToGrpc(status_));
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    outgoing_.pop_front();
    if (!ok) {
      cancelled_->Set();
      outgoing_.clear();
    }
    if (!outgoing_.empty()) {
      WriteNext();
    } else if (ended_) {
      Finish(ToGrpc(status_));
    }
  }

  void OnCancel() override { cancelled_->Set(); }
  void OnDone() override { self_.reset(); }

 private:
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    writing_ = true;
    StartWrite(&outgoing_.front());
  }

  const std::shared_ptr<CancelFlag> cancelled_;
  std::shared_ptr<GenerateCall> self_;
  absl::Mutex mutex_;
  std::deque<GenerateResponse> outgoing_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

class CallListener final : public GenerationListener {
 public:
  CallListener(std::shared_ptr<GenerateCall> call, const BlendRequest* prompt)
      : call_(std::move(call)), prompt_(*prompt) {}

  void OnStarted(const Prefilled& prefilled, absl::Duration queued,
                 absl::Duration prefill) override {
    GenerateResponse response;
    *response.mutable_started() = StartedOf(prefilled, prompt_, queued, prefill);
    call_->Send(std::move(response));
  }

  void OnToken(const SampledToken& token) override {
    GenerateResponse response;
    response.mutable_token()->set_id(token.id);
    response.mutable_token()->set_logprob(token.logprob);
    call_->Send(std::move(response));
  }

  void OnFinished(const absl::Status& status, bool ended, int64_t tokens) override {
    if (status.ok()) {
      GenerateResponse response;
      response.mutable_finished()->set_reason(ended ? worker::v1::Finished::STOP
                                                    : worker::v1::Finished::LENGTH);
      response.mutable_finished()->set_generated_tokens(tokens);
      call_->Send(std::move(response));
    }
    call_->End(status);
  }

 private:
  const std::shared_ptr<GenerateCall> call_;
  const BlendRequest& prompt_;  // of the generation that owns this listener
};

class WorkerService final : public worker::v1::Worker::CallbackService {
 public:
  WorkerService(const ServedModel& served, const Decoder* decoder, const BlendConfig* defaults,
                Engine* engine)
      : served_(served), decoder_(*decoder), defaults_(*defaults), engine_(*engine) {}

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
    response->set_blend_enabled(served_.blend_enabled);
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
    if (!status.ok()) call->End(status);
    return call.get();
  }

 private:
  absl::Status Submit(const GenerateRequest& request, const std::shared_ptr<GenerateCall>& call) {
    ASSIGN_OR_RETURN(std::unique_ptr<Generation> generation,
                     CheckRequest(request, decoder_.config(), decoder_.max_len(), defaults_,
                                  served_.blend_enabled));
    generation->cancelled = call->cancelled();
    generation->listener = std::make_unique<CallListener>(call, &generation->prompt);
    return engine_.Submit(std::move(generation));
  }

  const ServedModel served_;
  const Decoder& decoder_;
  const BlendConfig& defaults_;
  Engine& engine_;
};

class GrpcWorkerServer final : public WorkerServer {
 public:
  GrpcWorkerServer(const ServedModel& served, const Decoder* decoder, const BlendConfig* defaults,
                   Engine* engine)
      : service_(served, decoder, defaults, engine) {}
  ~GrpcWorkerServer() override { Shutdown(); }

  absl::Status Start(const std::string& address) {
    grpc::EnableDefaultHealthCheckService(true);
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
                                                                const Decoder* decoder,
                                                                const BlendConfig* defaults,
                                                                Engine* engine) {
  auto server = std::make_unique<GrpcWorkerServer>(served, decoder, defaults, engine);
  RETURN_IF_ERROR(server->Start(address));
  return server;
}

}  // namespace tessera
