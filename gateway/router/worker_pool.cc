#include "gateway/router/worker_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "gateway/router/rendezvous.h"
#include "glog/logging.h"

namespace tessera {

namespace v1 = worker::v1;

// One request and its attempts, one after the other. Only the callbacks of the running attempt and
// Cancel touch it, so the lock is about those two.
class WorkerPool::RoutedCall final : public WorkerCall, private GenerateListener {
 public:
  RoutedCall(WorkerPool* pool, v1::GenerateRequest request, absl::Time deadline,
             GenerateListener* listener)
      : pool_(pool), request_(std::move(request)), deadline_(deadline), listener_(listener) {
    untried_ = pool_->Candidates(request_);
    attempts_left_ = pool_->options_.max_attempts;
  }

  bool HasCandidates() const { return !untried_.empty(); }

  // Sends the request to the next worker with room. False when there is none, or after Cancel.
  bool StartNext() {
    absl::MutexLock lock(&mutex_);
    while (!cancelled_ && attempts_left_ > 0 && !untried_.empty()) {
      const size_t index = untried_.front();
      untried_.erase(untried_.begin());
      WorkerClient* const client = pool_->Reserve(index);
      if (client == nullptr) continue;
      --attempts_left_;
      worker_ = index;
      // This may destroy the attempt that failed, from within its own last callback.
      attempt_ = client->Generate(request_, deadline_, this);
      return true;
    }
    return false;
  }

  void Cancel() override {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    if (attempt_ != nullptr) attempt_->Cancel();
  }

 private:
  void OnEvent(const v1::GenerateResponse& event) override {
    answered_ = true;
    listener_->OnEvent(event);
  }

  void OnDone(absl::Status status) override {
    size_t worker = 0;
    {
      // StartNext may still be storing the attempt that has ended already.
      absl::MutexLock lock(&mutex_);
      worker = worker_;
    }
    pool_->Release(worker, status);
    const bool elsewhere = absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
    if (elsewhere && !answered_ && StartNext()) return;
    listener_->OnDone(std::move(status));
  }

  WorkerPool* const pool_;
  const v1::GenerateRequest request_;
  const absl::Time deadline_;
  GenerateListener* const listener_;
  // Callbacks only. An event has come: the request can no longer be sent elsewhere.
  bool answered_ = false;

  absl::Mutex mutex_;
  std::vector<size_t> untried_;
  size_t attempts_left_ = 0;
  size_t worker_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<WorkerCall> attempt_ ABSL_GUARDED_BY(mutex_);
};

WorkerPool::WorkerPool(std::vector<std::unique_ptr<WorkerClient>> workers,
                       const WorkerPoolOptions& options)
    : options_(options) {
  workers_.resize(workers.size());
  for (size_t i = 0; i < workers.size(); ++i) workers_[i].client = std::move(workers[i]);
}

WorkerPool::~WorkerPool() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (poller_.joinable()) poller_.join();
  absl::MutexLock lock(&mutex_);
  for (Worker& worker : workers_) {
    CHECK_EQ(worker.in_flight, 0u) << "a call outlives the pool";
    if (worker.poll != nullptr) worker.poll->Cancel();
  }
  auto quiet = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::all_of(workers_.begin(), workers_.end(),
                       [](const Worker& worker) { return worker.poll == nullptr; });
  };
  mutex_.Await(absl::Condition(&quiet));
}

void WorkerPool::Start() {
  poller_ = std::thread([this] { PollLoop(); });
}

void WorkerPool::AwaitFirstAnswers(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  auto all = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::all_of(workers_.begin(), workers_.end(),
                       [](const Worker& worker) { return worker.polled; });
  };
  mutex_.AwaitWithTimeout(absl::Condition(&all), timeout);
}

std::optional<v1::GetModelResponse> WorkerPool::Model() const {
  absl::MutexLock lock(&mutex_);
  const v1::GetModelResponse* const model = FirstModel();
  if (model == nullptr) return std::nullopt;
  return *model;
}

absl::StatusOr<std::unique_ptr<WorkerCall>> WorkerPool::Generate(v1::GenerateRequest request,
                                                                 absl::Time deadline,
                                                                 GenerateListener* listener) {
  auto call = std::make_unique<RoutedCall>(this, std::move(request), deadline, listener);
  if (!call->HasCandidates()) {
    return absl::UnavailableError("no worker is ready: the model may still be loading");
  }
  if (!call->StartNext()) {
    return absl::ResourceExhaustedError("every worker has as many requests as it may: retry later");
  }
  return call;
}

const v1::GetModelResponse* WorkerPool::FirstModel() const {
  for (const Worker& worker : workers_) {
    if (worker.model) return &*worker.model;
  }
  return nullptr;
}

std::vector<size_t> WorkerPool::Candidates(const v1::GenerateRequest& request) const {
  std::vector<size_t> indices;
  std::vector<WorkerLoad> loads;
  {
    absl::MutexLock lock(&mutex_);
    const v1::GetModelResponse* const first = FirstModel();
    for (size_t i = 0; first != nullptr && i < workers_.size(); ++i) {
      const Worker& worker = workers_[i];
      if (!worker.model || worker.model->name() != first->name()) continue;
      indices.push_back(i);
      loads.push_back({worker.client->address(), worker.in_flight});
    }
  }
  std::vector<size_t> order = RankWorkers(request, loads, options_.slack);
  for (size_t& position : order) position = indices[position];
  return order;
}

WorkerClient* WorkerPool::Reserve(size_t index) {
  absl::MutexLock lock(&mutex_);
  Worker& worker = workers_[index];
  if (!worker.model || worker.in_flight >= options_.max_in_flight) return nullptr;
  ++worker.in_flight;
  return worker.client.get();
}

void WorkerPool::Release(size_t index, const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  Worker& worker = workers_[index];
  --worker.in_flight;
  if (!absl::IsUnavailable(status)) return;
  MarkLost(worker, status);
  worker.next_poll = absl::Now();
  poll_soon_ = true;
}

void WorkerPool::PollLoop() {
  absl::MutexLock lock(&mutex_);
  while (!stopping_) {
    const absl::Time now = absl::Now();
    absl::Time next = now + options_.poll_up;
    for (size_t i = 0; i < workers_.size(); ++i) {
      if (workers_[i].poll != nullptr) continue;
      if (workers_[i].next_poll <= now) {
        StartPoll(i);
      } else {
        next = std::min(next, workers_[i].next_poll);
      }
    }
    poll_soon_ = false;
    auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || poll_soon_; };
    mutex_.AwaitWithDeadline(absl::Condition(&due), next);
  }
}

void WorkerPool::StartPoll(size_t index) {
  workers_[index].poll =
      workers_[index].client->GetModel(absl::Now() + options_.poll_deadline,
                                       [this, index](absl::StatusOr<v1::GetModelResponse> model) {
                                         OnPolled(index, std::move(model));
                                       });
}

void WorkerPool::OnPolled(size_t index, absl::StatusOr<v1::GetModelResponse> model) {
  absl::MutexLock lock(&mutex_);
  Worker& worker = workers_[index];
  worker.poll.reset();
  worker.polled = true;
  worker.next_poll = absl::Now() + (model.ok() ? options_.poll_up : options_.poll_down);
  poll_soon_ = true;
  if (!model.ok()) {
    MarkLost(worker, model.status());
    return;
  }
  if (!worker.model || worker.model->name() != model->name()) {
    LOG(INFO) << "event=worker_ready worker=" << worker.client->address()
              << " model=" << model->name() << " max_len=" << model->max_len()
              << " device=" << model->device() << " blend=" << model->blend_enabled();
  }
  worker.model = *std::move(model);
}

void WorkerPool::MarkLost(Worker& worker, const absl::Status& why) {
  if (!worker.model) return;
  LOG(WARNING) << "event=worker_lost worker=" << worker.client->address() << " error=\""
               << absl::CHexEscape(why.message()) << "\"";
  worker.model.reset();
}

}  // namespace tessera
