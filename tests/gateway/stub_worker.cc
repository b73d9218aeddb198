#include "tests/gateway/stub_worker.h"

#include <algorithm>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "glog/logging.h"
#include "grpcpp/grpcpp.h"
#include "proto/worker.grpc.pb.h"

namespace tessera {
namespace {

namespace v1 = worker::v1;

std::vector<v1::GenerateResponse> Echo(const v1::GenerateRequest& request, uint32_t eos) {
  std::vector<v1::GenerateResponse> events(1);
  v1::Started* const started = events[0].mutable_started();
  uint32_t total = 0;
  for (const v1::Segment& segment : request.segments()) {
    v1::SegmentReport* const report = started->add_segments();
    report->set_tokens(segment.token_ids_size());
    report->set_source(v1::SegmentReport::COMPUTED);
    total += segment.token_ids_size();
  }
  started->mutable_usage()->set_blended_tokens(total / 4);
  started->mutable_usage()->set_computed_tokens(total - total / 4);
  started->set_queue_us(1500);
  started->set_prefill_us(2500);
  started->set_policy(request.blend().policy().empty() ? "query_v" : request.blend().policy());
  started->set_correction(true);

  const auto& ids = request.segments(request.segments_size() - 1).token_ids();
  const int count = std::min<int64_t>(ids.size(), request.max_tokens());
  for (int i = ids.size() - count; i < ids.size(); ++i) {
    events.emplace_back().mutable_token()->set_id(ids.Get(i));
  }
  const bool stops = static_cast<uint32_t>(count) < request.max_tokens();
  if (stops) events.emplace_back().mutable_token()->set_id(eos);
  v1::Finished* const finished = events.emplace_back().mutable_finished();
  finished->set_reason(stops ? v1::Finished::STOP : v1::Finished::LENGTH);
  finished->set_generated_tokens(events.size() - 2);
  return events;
}

class GrpcStubWorker;

// One call; deletes itself when gRPC is done with it.
class EchoReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  EchoReactor(GrpcStubWorker* worker, std::vector<v1::GenerateResponse> events,
              StubBehaviour behaviour)
      : worker_(worker), events_(std::move(events)), behaviour_(std::move(behaviour)) {}

  void Next() ABSL_LOCKS_EXCLUDED(mutex_);
  // Goes on after a hold.
  void GoOn() ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWriteDone(bool ok) override {
    if (ok) return Next();
    End(grpc::Status::CANCELLED);
  }
  void OnCancel() override;
  void OnDone() override;

 private:
  void End(const grpc::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  GrpcStubWorker* const worker_;
  const std::vector<v1::GenerateResponse> events_;
  const StubBehaviour behaviour_;
  absl::Mutex mutex_;
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  bool holding_ ABSL_GUARDED_BY(mutex_) = false;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

class GrpcStubWorker final : public StubWorker, public v1::Worker::CallbackService {
 public:
  GrpcStubWorker(const std::string& model_name, uint32_t max_len, uint32_t vocab_size, uint32_t eos,
                 int port) {
    model_.set_name(model_name);
    model_.set_max_len(max_len);
    model_.set_vocab_size(vocab_size);
    model_.add_eos_token_ids(eos);
    model_.set_device("stub");
    model_.set_blend_enabled(true);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    CHECK(server_ != nullptr);
  }

  ~GrpcStubWorker() override {
    Release();
    // Cancels what runs after this, and waits for it.
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  }

  int port() const override { return port_; }

  void Set(const StubBehaviour& behaviour) override {
    absl::MutexLock lock(&mutex_);
    behaviour_ = behaviour;
  }

  void Release() override {
    absl::MutexLock lock(&mutex_);
    released_ = true;
    for (EchoReactor* const reactor : running_) reactor->GoOn();
  }

  int calls() const override {
    absl::MutexLock lock(&mutex_);
    return calls_;
  }

  v1::GenerateRequest last_request() const override {
    absl::MutexLock lock(&mutex_);
    return last_request_;
  }

  bool AwaitCancelled(int count) const override {
    absl::MutexLock lock(&mutex_);
    auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return cancelled_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(30));
  }

  bool AwaitCalls(int count) const override {
    absl::MutexLock lock(&mutex_);
    auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return calls_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(30));
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    *response = model_;
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    EchoReactor* reactor = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      ++calls_;
      last_request_ = *request;
      StubBehaviour behaviour = behaviour_;
      if (released_) behaviour.hold_after = -1;
      reactor = new EchoReactor(this, Echo(*request, model_.eos_token_ids(0)), behaviour);
      running_.insert(reactor);
    }
    reactor->Next();
    return reactor;
  }

  void CountCancelled() {
    absl::MutexLock lock(&mutex_);
    ++cancelled_;
  }

  void Forget(EchoReactor* reactor) {
    absl::MutexLock lock(&mutex_);
    running_.erase(reactor);
  }

 private:
  v1::GetModelResponse model_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  mutable absl::Mutex mutex_;
  StubBehaviour behaviour_ ABSL_GUARDED_BY(mutex_);
  v1::GenerateRequest last_request_ ABSL_GUARDED_BY(mutex_);
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int cancelled_ ABSL_GUARDED_BY(mutex_) = 0;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<EchoReactor*> running_ ABSL_GUARDED_BY(mutex_);
};

void EchoReactor::Next() {
  const v1::GenerateResponse* event = nullptr;
  grpc::Status status;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    if (behaviour_.fail_after == static_cast<int>(next_)) {
      status = grpc::Status(static_cast<grpc::StatusCode>(behaviour_.failure.code()),
                            std::string(behaviour_.failure.message()));
    } else if (!held_ && behaviour_.hold_after == static_cast<int>(next_)) {
      holding_ = true;
      return;
    } else if (next_ < events_.size()) {
      event = &events_[next_++];
    }
  }
  if (event != nullptr) {
    StartWrite(event);
  } else {
    End(status);
  }
}

void EchoReactor::GoOn() {
  {
    absl::MutexLock lock(&mutex_);
    held_ = true;
    if (!holding_) return;
    holding_ = false;
  }
  Next();
}

void EchoReactor::OnCancel() {
  worker_->CountCancelled();
  bool end = false;
  {
    absl::MutexLock lock(&mutex_);
    // Otherwise a write is on its way and fails.
    end = holding_;
    holding_ = false;
    held_ = true;
  }
  if (end) End(grpc::Status::CANCELLED);
}

void EchoReactor::OnDone() {
  worker_->Forget(this);
  delete this;
}

void EchoReactor::End(const grpc::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
  }
  Finish(status);
}

}  // namespace

std::unique_ptr<StubWorker> StubWorker::Start(const std::string& model_name, uint32_t max_len,
                                              uint32_t vocab_size, uint32_t eos, int port) {
  return std::make_unique<GrpcStubWorker>(model_name, max_len, vocab_size, eos, port);
}

}  // namespace tessera
