#include "tests/gateway/stub_worker.h"

#include <openssl/sha.h>

#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "glog/logging.h"
#include "gpu_worker/serve/watch_call.h"
#include "grpcpp/alarm.h"
#include "grpcpp/grpcpp.h"
#include "proto/worker.grpc.pb.h"

namespace tessera {
namespace {

namespace v1 = worker::v1;

float Logprob(uint32_t id) { return -1.0f - 0.25f * static_cast<float>(id % 8); }

// Even ids are the likeliest in their place, odd ones are not among the likeliest.
template <typename Field>
void AddTop(uint32_t id, uint32_t count, uint32_t vocab_size, Field* top) {
  for (uint32_t i = 0; i < count; ++i) {
    v1::TokenLogprob* const entry = top->Add();
    entry->set_id((id + id % 2 + i) % vocab_size);
    entry->set_logprob(i == 0 && id % 2 == 0 ? Logprob(id) : -0.5f - 2.0f * static_cast<float>(i));
  }
}

// In two events, as a worker does with long prompts.
void AddPromptLogprobs(const v1::GenerateRequest& request, uint32_t vocab_size,
                       std::vector<v1::GenerateResponse>* events) {
  std::vector<uint32_t> ids;
  for (const v1::Segment& segment : request.segments()) {
    ids.insert(ids.end(), segment.token_ids().begin(), segment.token_ids().end());
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i == 0 || i == ids.size() / 2) events->emplace_back();
    auto* const position = events->back().mutable_prompt_logprobs()->add_positions();
    position->mutable_token()->set_id(ids[i]);
    if (i == 0) continue;
    position->mutable_token()->set_logprob(Logprob(ids[i]));
    AddTop(ids[i], request.prompt_logprobs(), vocab_size, position->mutable_top());
  }
}

v1::Started Start(const v1::GenerateRequest& request) {
  v1::Started started;
  uint32_t total = 0;
  for (const v1::Segment& segment : request.segments()) {
    v1::SegmentReport* const report = started.add_segments();
    report->set_tokens(segment.token_ids_size());
    report->set_source(v1::SegmentReport::COMPUTED);
    if (request.blend().report_rows()) {
      report->add_recomputed_rows(1);
      report->add_recomputed_rows(2);
    }
    total += segment.token_ids_size();
  }
  started.mutable_usage()->set_blended_tokens(total / 4);
  started.mutable_usage()->set_computed_tokens(total - total / 4);
  started.set_queue_us(1500);
  started.set_prefill_us(2500);
  started.set_full_prefill_us(9500);
  started.set_policy(request.blend().policy().empty() ? "query_v" : request.blend().policy());
  started.set_correction(true);
  return started;
}

// Token ids of answer `index`, the end token with them, and why it ends.
std::pair<std::vector<uint32_t>, v1::Finished::Reason> AnswerIds(const v1::GenerateRequest& request,
                                                                 uint32_t index, uint32_t eos) {
  const auto& ids = request.segments(request.segments_size() - 1).token_ids();
  const int count = std::min<int64_t>(ids.size(), request.max_tokens());
  std::vector<uint32_t> answer;
  for (int i = ids.size() - count + static_cast<int>(index); i < ids.size(); ++i) {
    answer.push_back(ids.Get(i));
    const auto& stops = request.stop_token_ids();
    if (answer.size() > request.sampling().min_tokens() &&
        std::find(stops.begin(), stops.end(), ids.Get(i)) != stops.end()) {
      return {answer, v1::Finished::STOP};
    }
  }
  if (answer.size() >= request.max_tokens()) return {answer, v1::Finished::LENGTH};
  answer.push_back(eos);
  return {answer, v1::Finished::STOP};
}

std::vector<v1::GenerateResponse> Echo(const v1::GenerateRequest& request,
                                       const v1::GetModelResponse& model) {
  std::vector<v1::GenerateResponse> events;
  if (request.has_prompt_logprobs()) AddPromptLogprobs(request, model.vocab_size(), &events);
  *events.emplace_back().mutable_started() = Start(request);
  std::vector<std::pair<std::vector<uint32_t>, v1::Finished::Reason>> answers;
  for (uint32_t index = 0; index < std::max(1u, request.n()); ++index) {
    answers.push_back(AnswerIds(request, index, model.eos_token_ids(0)));
  }
  size_t open = answers.size();
  for (size_t step = 0; open > 0; ++step) {
    for (uint32_t index = 0; index < answers.size(); ++index) {
      const auto& [ids, reason] = answers[index];
      if (step >= ids.size()) continue;
      v1::Token* const token = events.emplace_back().mutable_token();
      token->set_id(ids[step]);
      token->set_index(index);
      token->set_logprob(Logprob(ids[step]));
      AddTop(ids[step], request.top_logprobs(), model.vocab_size(), token->mutable_top());
      if (step + 1 < ids.size()) continue;
      v1::Finished* const finished = events.emplace_back().mutable_finished();
      finished->set_reason(reason);
      finished->set_index(index);
      finished->set_generated_tokens(ids.size());
      --open;
    }
  }
  return events;
}

std::string Sha256(const std::string& bytes) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

// As if nothing of it were stored.
v1::PrefillChunkResponse Stored(const v1::PrefillChunkRequest& request) {
  const uint32_t tokens = request.segment().token_ids_size();
  v1::PrefillChunkResponse response;
  response.set_chunk_key(
      Sha256(Sha256(request.cache_salt()) + request.segment().SerializeAsString()));
  for (uint32_t piece = 0; piece * 256 < tokens; ++piece) {
    response.add_piece_keys(Sha256(absl::StrCat(response.chunk_key(), piece)));
  }
  response.set_tokens(tokens);
  response.set_bytes(tokens * kStubTokenBytes);
  return response;
}

class GrpcStubWorker;

// A call with one answer; deletes itself when gRPC is done with it.
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  UnaryReactor(GrpcStubWorker* worker, const grpc::Status& status)
      : worker_(worker), status_(status) {}

  void Answer() { End(status_); }
  void OnCancel() override;
  void OnDone() override;

 private:
  void End(const grpc::Status& status) ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      absl::MutexLock lock(&mutex_);
      if (ended_) return;
      ended_ = true;
    }
    Finish(status);
  }

  GrpcStubWorker* const worker_;
  const grpc::Status status_;
  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

// One call; deletes itself when gRPC is done with it.
class EchoReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  EchoReactor(GrpcStubWorker* worker, std::string request_id,
              std::vector<v1::GenerateResponse> events, StubBehaviour behaviour)
      : worker_(worker),
        request_id_(std::move(request_id)),
        events_(std::move(events)),
        behaviour_(std::move(behaviour)) {}

  // Takes the time that the next event takes, and then does Next.
  void Proceed() ABSL_LOCKS_EXCLUDED(mutex_);
  void Next() ABSL_LOCKS_EXCLUDED(mutex_);
  // Goes on after a hold.
  void GoOn() ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWriteDone(bool ok) override {
    if (ok) return Proceed();
    End(grpc::Status::CANCELLED);
  }
  void OnCancel() override;
  void OnDone() override;

 private:
  absl::Duration TimeOf(size_t event) const;
  void End(const grpc::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  GrpcStubWorker* const worker_;
  const std::string request_id_;
  const std::vector<v1::GenerateResponse> events_;
  const StubBehaviour behaviour_;
  absl::Mutex mutex_;
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  bool holding_ ABSL_GUARDED_BY(mutex_) = false;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Alarm alarm_;  // runs only between events
};

class GrpcStubWorker final : public StubWorker, public v1::Worker::CallbackService {
 public:
  GrpcStubWorker(const std::string& model_name, uint32_t max_len, uint32_t vocab_size, uint32_t eos,
                 int port, const StubBehaviour& behaviour)
      : behaviour_(behaviour) {
    model_.set_name(model_name);
    model_.set_max_len(max_len);
    model_.set_vocab_size(vocab_size);
    model_.add_eos_token_ids(eos);
    model_.set_device("stub");
    model_.set_blend_enabled(true);
    model_.set_running_requests(3);
    model_.set_waiting_requests(2);
    model_.set_instance_id(absl::StrCat(std::random_device()()));
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

  void Kill() override { server_->Shutdown(std::chrono::system_clock::now()); }

  int port() const override { return port_; }

  void Set(const StubBehaviour& behaviour) override {
    absl::MutexLock lock(&mutex_);
    behaviour_ = behaviour;
  }

  void Release() override {
    absl::MutexLock lock(&mutex_);
    released_ = true;
    for (EchoReactor* const reactor : running_) reactor->GoOn();
    for (UnaryReactor* const reactor : held_) reactor->Answer();
  }

  int calls() const override {
    absl::MutexLock lock(&mutex_);
    return calls_;
  }

  v1::GenerateRequest last_request() const override {
    absl::MutexLock lock(&mutex_);
    return last_request_;
  }

  int prefills() const override {
    absl::MutexLock lock(&mutex_);
    return prefills_;
  }

  v1::PrefillChunkRequest last_prefill() const override {
    absl::MutexLock lock(&mutex_);
    return last_prefill_;
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

  bool AwaitPrefills(int count) const override {
    absl::MutexLock lock(&mutex_);
    auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return prefills_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(30));
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    *response = model_;
    absl::MutexLock lock(&mutex_);
    return Unary(absl::OkStatus(), behaviour_.hold_model);
  }

  grpc::ServerUnaryReactor* PrefillChunk(grpc::CallbackServerContext* context,
                                         const v1::PrefillChunkRequest* request,
                                         v1::PrefillChunkResponse* response) override {
    *response = Stored(*request);
    absl::MutexLock lock(&mutex_);
    ++prefills_;
    last_prefill_ = *request;
    if (behaviour_.prefill_failure.ok() && !stored_.insert(response->chunk_key()).second) {
      response->set_cached_tokens(response->tokens());
    }
    return Unary(behaviour_.prefill_failure, behaviour_.hold_prefill);
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
      if (behaviour.on_received) behaviour.on_received(request->request_id());
      reactor = new EchoReactor(this, request->request_id(), Echo(*request, model_), behaviour);
      running_.insert(reactor);
    }
    reactor->Proceed();
    return reactor;
  }

  grpc::ServerWriteReactor<v1::ChunkChanges>* WatchChunks(
      grpc::CallbackServerContext* context, const v1::WatchChunksRequest* request) override {
    absl::MutexLock lock(&mutex_);
    if (!behaviour_.tells_chunks) {
      return v1::Worker::CallbackService::WatchChunks(context, request);
    }
    return new WatchCall(&chunks_);
  }
  ResidentChunks& chunks() override { return chunks_; }

  void CountCancelled() {
    absl::MutexLock lock(&mutex_);
    ++cancelled_;
  }

  void Forget(EchoReactor* reactor) {
    absl::MutexLock lock(&mutex_);
    running_.erase(reactor);
  }

  void Forget(UnaryReactor* reactor) {
    absl::MutexLock lock(&mutex_);
    held_.erase(reactor);
  }

 private:
  grpc::ServerUnaryReactor* Unary(const absl::Status& status, bool hold)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    UnaryReactor* const reactor = new UnaryReactor(
        this,
        grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message())));
    if (hold && !released_) {
      held_.insert(reactor);
    } else {
      reactor->Answer();
    }
    return reactor;
  }

  v1::GetModelResponse model_;
  ResidentChunks chunks_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  mutable absl::Mutex mutex_;
  StubBehaviour behaviour_ ABSL_GUARDED_BY(mutex_);
  v1::GenerateRequest last_request_ ABSL_GUARDED_BY(mutex_);
  v1::PrefillChunkRequest last_prefill_ ABSL_GUARDED_BY(mutex_);
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int prefills_ ABSL_GUARDED_BY(mutex_) = 0;
  int cancelled_ ABSL_GUARDED_BY(mutex_) = 0;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<EchoReactor*> running_ ABSL_GUARDED_BY(mutex_);
  std::set<UnaryReactor*> held_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> stored_ ABSL_GUARDED_BY(mutex_);  // chunk keys
};

void UnaryReactor::OnCancel() {
  worker_->CountCancelled();
  End(grpc::Status::CANCELLED);
}

void UnaryReactor::OnDone() {
  worker_->Forget(this);
  delete this;
}

absl::Duration EchoReactor::TimeOf(size_t event) const {
  if (event == 0) return behaviour_.prefill_time;
  const bool first = event == 1 || !events_[event - 1].has_token();
  return event < events_.size() && events_[event].has_token() && !first ? behaviour_.token_time
                                                                        : absl::ZeroDuration();
}

void EchoReactor::Proceed() {
  absl::Duration time;
  {
    absl::MutexLock lock(&mutex_);
    time = TimeOf(next_);
  }
  if (time <= absl::ZeroDuration()) return Next();
  alarm_.Set(absl::ToChronoTime(absl::Now() + time), [this](bool) { Next(); });
}

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
  if (event == &events_.front() && behaviour_.on_started) behaviour_.on_started(request_id_);
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
                                              uint32_t vocab_size, uint32_t eos, int port,
                                              const StubBehaviour& behaviour) {
  return std::make_unique<GrpcStubWorker>(model_name, max_len, vocab_size, eos, port, behaviour);
}

}  // namespace tessera
