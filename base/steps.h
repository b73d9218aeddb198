// Work in steps: a C++20 coroutine that stops at every `co_await NextStep()`, so that who runs it
// can do other work in between, on the same thread.
#ifndef TESSERA_BASE_STEPS_H_
#define TESSERA_BASE_STEPS_H_

#include <atomic>
#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// RETURN_IF_ERROR and ASSIGN_OR_RETURN (base/status_macros.h) for coroutines.
#define CO_RETURN_IF_ERROR(expression)                  \
  do {                                                  \
    absl::Status tessera_status = (expression);         \
    if (!tessera_status.ok()) co_return tessera_status; \
  } while (false)

#define CO_ASSIGN_OR_RETURN(left, expression) \
  TESSERA_CO_ASSIGN_OR_RETURN(TESSERA_CO_CONCAT(tessera_or_, __LINE__), left, expression)

#define TESSERA_CO_CONCAT_INNER(a, b) a##b
#define TESSERA_CO_CONCAT(a, b) TESSERA_CO_CONCAT_INNER(a, b)
#define TESSERA_CO_ASSIGN_OR_RETURN(result, left, expression) \
  auto result = (expression);                                 \
  if (!result.ok()) co_return std::move(result).status();     \
  left = std::move(result).value()

namespace tessera {

// What the next step of some work is like.
enum class StepState {
  kReady,    // there is work to do
  kWaiting,  // it waits for something to arrive; a step now only looks whether it has
  kDone,     // the result is here
};

namespace steps_internal {

// One for a whole chain of coroutines that await each other.
struct Chain {
  std::coroutine_handle<> innermost;
  StepState state = StepState::kReady;
  absl::Time until = absl::InfiniteFuture();  // of the last wait
};

struct PromiseBase {
  Chain* chain = nullptr;
  std::coroutine_handle<> awaiting;  // who goes on when this ends; null: the outermost
  std::exception_ptr exception;

  std::suspend_always initial_suspend() const noexcept { return {}; }
  // Comes to who takes the result: std::bad_alloc, where a device has no memory left.
  void unhandled_exception() noexcept { exception = std::current_exception(); }

  struct Final {
    bool await_ready() const noexcept { return false; }
    template <typename Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> ended) const noexcept {
      const PromiseBase& promise = ended.promise();
      if (promise.awaiting) {
        promise.chain->innermost = promise.awaiting;
        return promise.awaiting;
      }
      promise.chain->state = StepState::kDone;
      return std::noop_coroutine();
    }
    void await_resume() const noexcept {}
  };
  Final final_suspend() const noexcept { return {}; }
};

struct Pause {
  StepState state;
  absl::Time until = absl::InfiniteFuture();
  bool await_ready() const noexcept { return false; }
  template <typename Promise>
  void await_suspend(std::coroutine_handle<Promise> paused) const noexcept {
    paused.promise().chain->state = state;
    paused.promise().chain->until = until;
  }
  void await_resume() const noexcept {}
};

}  // namespace steps_internal

// The end of a step; the next one has work to do.
inline steps_internal::Pause NextStep() { return {StepState::kReady}; }
// The end of a step; nothing can be done before something arrives. The step after this one looks,
// and waits again if it has not. It is to be taken when something has arrived, and at `until` at
// the latest.
inline steps_internal::Pause WaitStep(absl::Time until = absl::InfiniteFuture()) {
  return {StepState::kWaiting, until};
}

// Work that gives a T. Either awaited by other work, as a part of it, or run by Step until done.
// Destroying it ends it where it stands. It must not move once its first step was taken. One thread
// at a time.
template <typename T>
class [[nodiscard]] Steps {
 public:
  struct promise_type : steps_internal::PromiseBase {
    std::optional<T> result;
    Steps get_return_object() {
      return Steps(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    template <typename U>
    void return_value(U&& value) {
      result.emplace(std::forward<U>(value));
    }
  };

  Steps() = default;
  Steps(Steps&& other) noexcept : work_(std::exchange(other.work_, nullptr)) {}
  Steps& operator=(Steps&& other) noexcept {
    std::swap(work_, other.work_);
    std::swap(chain_, other.chain_);
    return *this;
  }
  ~Steps() {
    if (work_) work_.destroy();
  }

  // Runs to the next pause, or to the end. Not after kDone.
  StepState Step() {
    if (!chain_.innermost) {
      chain_.innermost = work_;
      work_.promise().chain = &chain_;
    }
    chain_.innermost.resume();
    return chain_.state;
  }

  // The result, once, after kDone; throws what the work threw.
  T TakeResult() {
    if (work_.promise().exception) std::rethrow_exception(work_.promise().exception);
    return *std::move(work_.promise().result);
  }

  // What the last step gave.
  StepState state() const { return chain_.state; }
  // After kWaiting: when to take the next step at the latest.
  absl::Time waits_until() const { return chain_.until; }

  // As a part of other work.
  bool await_ready() const noexcept { return false; }
  template <typename Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> awaiting) noexcept {
    promise_type& promise = work_.promise();
    promise.chain = awaiting.promise().chain;
    promise.awaiting = awaiting;
    promise.chain->innermost = work_;
    return work_;
  }
  T await_resume() { return TakeResult(); }

 private:
  explicit Steps(std::coroutine_handle<promise_type> work) : work_(work) {}

  std::coroutine_handle<promise_type> work_;
  steps_internal::Chain chain_;
};

// Runs work to its end on the calling thread, CANCELLED when *cancelled turns true. wait(until):
// called when it waits, returns when something may have arrived, and at `until` at the latest.
// after_step(): called after each step.
template <typename T, typename Wait, typename AfterStep>
T RunSteps(Steps<T> work, const std::atomic<bool>& cancelled, Wait wait, AfterStep after_step) {
  StepState state;
  do {
    if (cancelled) return absl::CancelledError("the request was cancelled");
    if (work.state() == StepState::kWaiting) wait(work.waits_until());
    state = work.Step();
    after_step();
  } while (state != StepState::kDone);
  return work.TakeResult();
}

template <typename T, typename Wait>
T RunSteps(Steps<T> work, const std::atomic<bool>& cancelled, Wait wait) {
  return RunSteps(std::move(work), cancelled, wait, [] {});
}

// The same for work that never waits.
template <typename T>
T RunSteps(Steps<T> work, const std::atomic<bool>& cancelled) {
  return RunSteps(std::move(work), cancelled, [](absl::Time) {});
}

}  // namespace tessera

#endif  // TESSERA_BASE_STEPS_H_
