// The Reply that a connection lends to a handler. Private to gateway/http: it shows Asio types.
#ifndef TESSERA_GATEWAY_HTTP_OUTBOX_H_
#define TESSERA_GATEWAY_HTTP_OUTBOX_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/time/time.h"
#include "boost/asio/any_io_executor.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "gateway/http/handler.h"

namespace tessera::http {

// Carries calls from any thread to the connection's executor: every call is posted there, so what
// the connection reads (below "executor only") needs no lock. Posts of one caller keep their order.
// The count of buffered bytes is the only thing both sides touch.
class Outbox final : public Reply {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::time_point kNever = Clock::time_point::max();
  static constexpr absl::Duration kLongest = absl::Hours(24 * 365);

  // At most `capacity` bytes wait to be written; `wake` is cancelled whenever something has
  // arrived. `posting` counts threads that are inside the executor, and must outlive their calls.
  Outbox(boost::asio::any_io_executor executor, std::atomic<int>* posting, size_t capacity,
         boost::asio::steady_timer* wake)
      : executor_(std::move(executor)), posting_(posting), capacity_(capacity), wake_(wake) {}

  void PromiseEvents(Headers headers, absl::Duration within) override {
    const Clock::time_point when =
        Clock::now() + absl::ToChronoNanoseconds(std::min(within, kLongest));
    Post([this, when, headers = std::move(headers)]() mutable {
      promised_head_ = std::move(headers);
      promised_ = when;
    });
  }

  void Send(Response response) override {
    Post([this, response = std::move(response)]() mutable {
      finished_ = true;
      promised_ = kNever;
      if (!events_begun_) {
        response_ = std::move(response);
        return;
      }
      std::string last = EventOf(response.body) + "data: [DONE]\n\n";
      buffered_.fetch_add(last.size(), std::memory_order_relaxed);
      events_ += last;
    });
  }

  void StartEvents(Headers headers) override {
    Post([this, headers = std::move(headers)]() mutable { Begin(std::move(headers)); });
  }

  bool Write(std::string bytes) override {
    const size_t size = bytes.size();
    if (lost_.load(std::memory_order_relaxed)) return false;
    if (buffered_.fetch_add(size, std::memory_order_relaxed) + size > capacity_) {
      lost_.store(true, std::memory_order_relaxed);
      return false;
    }
    Post([this, bytes = std::move(bytes)] { events_ += bytes; });
    return true;
  }

  void Finish() override {
    Post([this] { finished_ = true; });
  }

  // Executor only. The last call has arrived; what it and earlier calls left may still be unread.
  bool finished() const { return finished_; }

  // Executor only. StartEvents has been called, so the stream needs an end.
  bool events_begun() const { return events_begun_; }

  // Executor only. When the stream begins by itself, unless an answer comes before.
  Clock::time_point promised() const { return promised_; }

  // Executor only. That time has come.
  void KeepPromise() { Begin(std::exchange(promised_head_, {})); }

  // Executor only. Some bytes were dropped: the stream must not be ended as if it were whole.
  bool lost() const { return lost_.load(std::memory_order_relaxed); }

  // Executor only. The client has left: later writes are dropped.
  void Close() { lost_.store(true, std::memory_order_relaxed); }

  // Executor only. Each moves out what has arrived since, once.
  std::optional<Response> TakeResponse() { return std::exchange(response_, std::nullopt); }
  std::optional<Headers> TakeEventsHead() { return std::exchange(events_head_, std::nullopt); }
  std::string TakeEvents() { return std::exchange(events_, {}); }
  bool HasOutput() const { return response_ || events_head_ || !events_.empty(); }

  // Executor only. `bytes` taken by TakeEvents were written: that much room is free again.
  void Written(size_t bytes) { buffered_.fetch_sub(bytes, std::memory_order_relaxed); }

 private:
  void Begin(Headers headers) {
    promised_ = kNever;
    if (events_begun_) return;
    events_head_ = std::move(headers);
    events_begun_ = true;
  }

  // One event has all lines of `text`.
  static std::string EventOf(std::string_view text) {
    std::string event;
    while (true) {
      const size_t end = text.find('\n');
      event.append("data: ").append(text.substr(0, end)).append("\n");
      if (end == std::string_view::npos) return event + "\n";
      text.remove_prefix(end + 1);
    }
  }

  template <typename Call>
  void Post(Call call) {
    // Copies: when this is a last call, the outbox may be gone before post returns. The server may
    // then be stopping too, so it is told when this thread has let go of its executor.
    std::atomic<int>* const posting = posting_;
    posting->fetch_add(1);
    {
      boost::asio::any_io_executor executor = executor_;
      boost::asio::post(executor, [call = std::move(call), wake = wake_]() mutable {
        call();
        wake->cancel();
      });
    }
    posting->fetch_sub(1);
  }

  const boost::asio::any_io_executor executor_;
  std::atomic<int>* const posting_;
  const size_t capacity_;
  boost::asio::steady_timer* const wake_;
  std::atomic<size_t> buffered_ = 0;
  std::atomic<bool> lost_ = false;

  // Executor only.
  Headers promised_head_;
  Clock::time_point promised_ = kNever;
  std::optional<Response> response_;
  std::optional<Headers> events_head_;
  std::string events_;
  bool events_begun_ = false;
  bool finished_ = false;
};

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_OUTBOX_H_
