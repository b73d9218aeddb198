#include "gateway/router/worker_pool.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "gateway/router/routed_call.h"
#include "glog/logging.h"

namespace tessera {

namespace v1 = worker::v1;

WorkerPool::WorkerPool(std::vector<std::unique_ptr<WorkerClient>> workers,
                       const WorkerPoolOptions& options)
    : options_(options), affinity_(options.affinity_chunks) {
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
    if (worker.watch != nullptr) worker.watch->Cancel();
  }
  auto quiet = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::all_of(workers_.begin(), workers_.end(), [](const Worker& worker) {
      return worker.poll == nullptr && worker.watch == nullptr;
    });
  };
  mutex_.Await(absl::Condition(&quiet));
}

void WorkerPool::Start() {
  poller_ = std::thread([this] { PollLoop(); });
}

void WorkerPool::SetAddresses(const std::vector<std::string>& addresses) {
  absl::flat_hash_set<std::string> wanted(addresses.begin(), addresses.end());
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < workers_.size(); ++i) {
    SetNamed(i, wanted.erase(workers_[i].client->address()) == 1);
  }
  for (const std::string& address : addresses) {
    if (wanted.erase(address) == 0) continue;
    const std::optional<size_t> place = FreePlace();
    if (!place) {
      LOG_EVENT_LIMITED(kError, "too_many_workers")
          .With("worker", address)
          .With("max", options_.max_workers);
      continue;
    }
    affinity_.ForgetWorker(*place);
    workers_[*place] = Worker();
    workers_[*place].client = ConnectWorker(address);
    LOG_EVENT(kInfo, "worker_named").With("worker", address);
  }
  poll_soon_ = true;
}

std::optional<size_t> WorkerPool::FreePlace() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    const Worker& worker = workers_[i];
    const bool known = worker.in_flight > 0 || worker.poll != nullptr || worker.watch != nullptr;
    if (!worker.named && !known) return i;
  }
  if (workers_.size() >= options_.max_workers) return std::nullopt;
  workers_.emplace_back();
  return workers_.size() - 1;
}

void WorkerPool::SetNamed(size_t index, bool named) {
  Worker& worker = workers_[index];
  if (worker.named == named) return;
  worker.named = named;
  // What it said before it left is no promise for when it comes back.
  worker.model.reset();
  worker.next_poll = absl::Now();
  if (!named && worker.watch != nullptr) worker.watch->Cancel();
  LOG_EVENT(kInfo, named ? "worker_named" : "worker_unnamed")
      .With("worker", worker.client->address())
      .With("in_flight", worker.in_flight);
}

void WorkerPool::AwaitFirstAnswers(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  auto all = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::all_of(workers_.begin(), workers_.end(),
                       [](const Worker& worker) { return worker.polled || !worker.named; });
  };
  mutex_.AwaitWithTimeout(absl::Condition(&all), timeout);
}

std::optional<v1::GetModelResponse> WorkerPool::Model() const {
  absl::MutexLock lock(&mutex_);
  const v1::GetModelResponse* const model = FirstModel();
  if (model == nullptr) return std::nullopt;
  return *model;
}

std::vector<WorkerState> WorkerPool::States() const {
  absl::MutexLock lock(&mutex_);
  std::vector<WorkerState> states;
  for (const Worker& worker : workers_) {
    if (!worker.named) continue;
    WorkerState& state = states.emplace_back();
    state.address = worker.client->address();
    state.in_flight = worker.in_flight;
    state.ready = worker.model.has_value();
    if (!state.ready) continue;
    state.model = worker.model->name();
    state.device = worker.model->device();
    state.max_len = worker.model->max_len();
    state.running = worker.model->running_requests();
    state.waiting = worker.model->waiting_requests();
    state.blend_enabled = worker.model->blend_enabled();
    state.tells_chunks = worker.tells;
  }
  return states;
}

RoutingTotals WorkerPool::Totals() const {
  absl::MutexLock lock(&mutex_);
  return totals_;
}

absl::StatusOr<std::unique_ptr<WorkerCall>> WorkerPool::Generate(v1::GenerateRequest request,
                                                                 absl::Time deadline,
                                                                 GenerateListener* listener) {
  auto call = std::make_unique<RoutedGenerate>(this, std::move(request), deadline, listener);
  RETURN_IF_ERROR(StartFirst(call.get()));
  return call;
}

absl::StatusOr<std::unique_ptr<WorkerCall>> WorkerPool::PrefillChunk(
    v1::PrefillChunkRequest request, absl::Time deadline, WorkerClient::ChunkCallback done) {
  auto call = std::make_unique<RoutedPrefill>(this, std::move(request), deadline, std::move(done));
  RETURN_IF_ERROR(StartFirst(call.get()));
  return call;
}

absl::Status WorkerPool::StartFirst(RoutedCall* call) {
  if (!call->HasCandidates()) {
    return absl::UnavailableError("no worker is ready: the model may still be loading");
  }
  if (!call->StartNext()) {
    return absl::ResourceExhaustedError("every worker has as many requests as it may: retry later");
  }
  return absl::OkStatus();
}

const v1::GetModelResponse* WorkerPool::FirstModel() const {
  for (const Worker& worker : workers_) {
    if (worker.named && worker.model) return &*worker.model;
  }
  return nullptr;
}

std::vector<size_t> WorkerPool::Serving() const {
  std::vector<size_t> indices;
  const v1::GetModelResponse* const first = FirstModel();
  for (size_t i = 0; first != nullptr && i < workers_.size(); ++i) {
    const Worker& worker = workers_[i];
    if (worker.named && worker.model && worker.model->name() == first->name()) {
      indices.push_back(i);
    }
  }
  return indices;
}

std::vector<RankedWorker> WorkerPool::Candidates(std::vector<ChunkVote> chunks) const {
  std::vector<size_t> serving;
  std::vector<WorkerLoad> loads;
  {
    absl::MutexLock lock(&mutex_);
    serving = Serving();
    const absl::Time now = absl::Now();
    for (const size_t i : serving) {
      const Worker& worker = workers_[i];
      loads.push_back({.address = worker.client->address(),
                       .in_flight = worker.in_flight,
                       .avoid = now < worker.avoid_until});
    }
    for (ChunkVote& chunk : chunks) {
      for (const uint32_t holder : affinity_.Holders(chunk.hash)) {
        const auto found = std::lower_bound(serving.begin(), serving.end(), holder);
        if (found == serving.end() || *found != holder) continue;
        chunk.holders.push_back(found - serving.begin());
      }
    }
  }
  std::vector<RankedWorker> order = RankWorkers(chunks, loads, options_.slack);
  for (RankedWorker& worker : order) worker.index = serving[worker.index];
  return order;
}

WorkerClient* WorkerPool::Reserve(const RankedWorker& choice, bool is_retry) {
  absl::MutexLock lock(&mutex_);
  Worker& worker = workers_[choice.index];
  if (!worker.named || !worker.model) return nullptr;
  if (worker.in_flight >= options_.max_in_flight) return nullptr;
  ++worker.in_flight;
  if (is_retry) {
    ++totals_.retries;
  } else {
    ++(choice.by == RoutedBy::kAffinity ? totals_.by_affinity
       : choice.by == RoutedBy::kHash   ? totals_.by_hash
                                        : totals_.by_load);
  }
  return worker.client.get();
}

void WorkerPool::SetRunning(size_t index, const RoutedCall* routed, WorkerCall* attempt) {
  absl::MutexLock lock(&mutex_);
  workers_[index].attempts[routed] = {.call = attempt};
}

bool WorkerPool::SetAnswered(size_t index, const RoutedCall* routed) {
  absl::MutexLock lock(&mutex_);
  const auto attempt = workers_[index].attempts.find(routed);
  CHECK(attempt != workers_[index].attempts.end());
  attempt->second.answered = !attempt->second.abandoned;
  return attempt->second.answered;
}

void WorkerPool::Learn(size_t index, const std::vector<ChunkVote>& chunks) {
  absl::MutexLock lock(&mutex_);
  if (workers_[index].tells) return;
  for (const ChunkVote& chunk : chunks) affinity_.Learn(chunk.hash, index);
}

bool WorkerPool::Release(size_t index, const RoutedCall* routed, const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  Worker& worker = workers_[index];
  const auto attempt = worker.attempts.find(routed);
  CHECK(attempt != worker.attempts.end());
  const bool abandoned = attempt->second.abandoned;
  worker.attempts.erase(attempt);
  --worker.in_flight;
  if (absl::IsUnavailable(status)) {
    MarkLost(worker, status);
    worker.avoid_until = absl::Now() + options_.set_aside;
    worker.next_poll = absl::Now();
    poll_soon_ = true;
  }
  return abandoned;
}

void WorkerPool::PollLoop() {
  absl::MutexLock lock(&mutex_);
  while (!stopping_) {
    const absl::Time now = absl::Now();
    absl::Time next = now + options_.poll_up;
    for (size_t i = 0; i < workers_.size(); ++i) {
      if (workers_[i].poll != nullptr) continue;
      if (!workers_[i].named && workers_[i].in_flight == 0) continue;
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
  if (model.ok()) {
    SetModel(index, *std::move(model));
    StartWatch(index);
    return;
  }
  MarkLost(worker, model.status());
  // Other failures end the worker's calls by themselves, or it has closed its port and finishes
  // what it has.
  if (absl::IsDeadlineExceeded(model.status())) Abandon(worker);
}

void WorkerPool::SetModel(size_t index, v1::GetModelResponse model) {
  Worker& worker = workers_[index];
  // A process that does not say who it is may be another after each loss.
  const bool is_same =
      model.instance_id() == worker.instance_id && (worker.model || !model.instance_id().empty());
  if (!is_same) {
    affinity_.ForgetWorker(index);
    worker.never_tells = false;
    worker.instance_id = model.instance_id();
    if (!model.instance_id().empty()) worker.avoid_until = absl::InfinitePast();
  }
  const bool is_news = !is_same || !worker.model || worker.model->name() != model.name();
  if (worker.named && is_news) {
    LOG_EVENT(kInfo, "worker_ready")
        .With("worker", worker.client->address())
        .With("model", model.name())
        .With("max_len", model.max_len())
        .With("device", model.device())
        .With("blend", model.blend_enabled());
  }
  worker.last_answer = absl::Now();
  worker.model = std::move(model);
}

// Polls pace it: a watch that ended is begun again when the worker next says what it serves.
void WorkerPool::StartWatch(size_t index) {
  Worker& worker = workers_[index];
  if (stopping_ || !worker.named) return;
  if (worker.watch != nullptr || worker.never_tells) return;
  if (options_.affinity_chunks == 0) return;
  worker.watch = worker.client->WatchChunks(
      [this, index](const v1::ChunkChanges& changes) { OnChunkChanges(index, changes); },
      [this, index](const absl::Status& why) { OnWatchEnded(index, why); });
}

void WorkerPool::OnChunkChanges(size_t index, const v1::ChunkChanges& changes) {
  absl::MutexLock lock(&mutex_);
  Worker& worker = workers_[index];
  if (changes.restart()) {
    affinity_.ForgetWorker(index);
    worker.tells = true;
    LOG_EVENT(kInfo, "worker_tells_chunks")
        .With("worker", worker.client->address())
        .With("chunks", changes.added_size());
  }
  for (const uint64_t chunk : changes.removed()) affinity_.Forget(chunk, index);
  for (const uint64_t chunk : changes.added()) affinity_.Learn(chunk, index);
}

// What it told stays the best guess until it tells anew, or another process answers.
void WorkerPool::OnWatchEnded(size_t index, const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  Worker& worker = workers_[index];
  worker.watch.reset();
  worker.tells = false;
  worker.never_tells = absl::IsUnimplemented(why);
}

void WorkerPool::Abandon(Worker& worker) {
  const bool is_gone = absl::Now() - worker.last_answer >= options_.give_up;
  const bool others = !Serving().empty();
  for (auto& [routed, attempt] : worker.attempts) {
    // Alone, a slow worker is better than none.
    if (attempt.abandoned || !(attempt.answered ? is_gone : others || is_gone)) continue;
    attempt.abandoned = true;
    attempt.call->Cancel();
  }
}

void WorkerPool::MarkLost(Worker& worker, const absl::Status& why) {
  if (!worker.model) return;
  LOG_EVENT(kWarning, "worker_lost").With("worker", worker.client->address()).WithError(why);
  worker.model.reset();
  // A connection to a machine that is gone would stay open for long.
  if (worker.watch != nullptr) worker.watch->Cancel();
  ++totals_.lost_workers;
}

}  // namespace tessera
