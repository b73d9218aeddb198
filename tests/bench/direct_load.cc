#include "tests/bench/direct_load.h"

#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "grpcpp/grpcpp.h"

namespace tessera::bench {

namespace v1 = worker::v1;

namespace {

// Of calls that nobody measures.
constexpr size_t kIdle = std::numeric_limits<size_t>::max();

}  // namespace

// Deletes itself when gRPC is done with it.
class DirectLoad::Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(DirectLoad* load, size_t slot) : load_(load), slot_(slot) {}

  void Start(v1::GenerateRequest request) {
    request.set_request_id(slot_ == kIdle ? "idle" : StubClock::IdOf(slot_));
    sent_ = Clock::now();
    // The request is serialized here.
    load_->stub_->async()->Generate(&context_, &request, this);
    StartRead(&event_);
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (event_.has_token() && tokens_++ == 0) load_->OnFirst(slot_, sent_);
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    load_->OnDone(slot_, status, tokens_);
    delete this;
  }

 private:
  DirectLoad* const load_;
  const size_t slot_;
  Clock::time_point sent_;
  size_t tokens_ = 0;
  v1::GenerateResponse event_;
  grpc::ClientContext context_;
};

DirectLoad::DirectLoad(const std::string& address, const v1::GenerateRequest& request,
                       const StubClock* clock)
    : request_(request),
      clock_(*clock),
      stub_(v1::Worker::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))) {
}

DirectLoad::~DirectLoad() {
  for (Call* const call : idle_) call->Cancel();
  absl::MutexLock lock(&mutex_);
  auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return open_ == 0; };
  mutex_.Await(absl::Condition(&none));
}

void DirectLoad::Ask(size_t slot) {
  Call* const call = new Call(this, slot);
  if (slot == kIdle) idle_.push_back(call);
  call->Start(request_);
}

void DirectLoad::OpenIdle(size_t count) {
  {
    absl::MutexLock lock(&mutex_);
    open_ += count;
  }
  for (size_t i = 0; i < count; ++i) Ask(kIdle);
  absl::MutexLock lock(&mutex_);
  auto begun = [this]()
                   ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return idle_begun_ == idle_.size(); };
  CHECK(mutex_.AwaitWithTimeout(absl::Condition(&begun), absl::Minutes(1)));
}

void DirectLoad::OnFirst(size_t slot, Clock::time_point sent) {
  const Clock::time_point now = Clock::now();
  absl::MutexLock lock(&mutex_);
  if (slot == kIdle) {
    ++idle_begun_;
  } else {
    samples_.push_back(clock_.Measure(slot, sent, now));
  }
}

void DirectLoad::OnDone(size_t slot, const grpc::Status& status, size_t tokens) {
  if (slot != kIdle) {
    CHECK(status.ok()) << status.error_message();
    CHECK_EQ(tokens, request_.max_tokens()) << "an answer is not whole";
  }
  {
    absl::MutexLock lock(&mutex_);
    if (slot == kIdle || Clock::now() >= end_) {
      --open_;
      return;
    }
  }
  Ask(slot);
}

std::vector<Ttft> DirectLoad::Run(size_t streams, absl::Duration ramp, absl::Duration duration) {
  const Clock::time_point begin = Clock::now();
  {
    absl::MutexLock lock(&mutex_);
    samples_.clear();
    end_ = begin + absl::ToChronoNanoseconds(duration);
    open_ += streams;
  }
  const auto pause = absl::ToChronoNanoseconds(ramp) / streams;
  for (size_t slot = 0; slot < streams; ++slot) {
    // Arrivals are what this measures, so their times are given.
    std::this_thread::sleep_until(begin + slot * pause);
    Ask(slot);
  }
  absl::MutexLock lock(&mutex_);
  auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return open_ == idle_.size(); };
  mutex_.Await(absl::Condition(&ended));
  return std::move(samples_);
}

}  // namespace tessera::bench
