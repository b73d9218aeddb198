// Puts responses and event streams on the wire. Private to gateway/http: it shows Asio types.
#ifndef TESSERA_GATEWAY_HTTP_RESPONSE_WRITER_H_
#define TESSERA_GATEWAY_HTTP_RESPONSE_WRITER_H_

#include <chrono>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "boost/asio/awaitable.hpp"
#include "gateway/http/message.h"
#include "gateway/http/stream.h"

namespace tessera::http {

// What a response must fit: of the request that it answers.
struct ResponseForm {
  // HTTP version, 10 or 11: 1.0 knows no chunks.
  unsigned version = 11;
  // The connection stays open after it.
  bool keep_alive = true;
  // Headers only.
  bool head_only = false;
  // On every response, whatever it says.
  Headers headers;
};

// For one connection, on its executor. Every method gives up after the write timeout, and is false
// when the client could not be reached: the connection is useless then.
class ResponseWriter {
 public:
  using Clock = std::chrono::steady_clock;

  // `stream` must outlive it.
  ResponseWriter(Stream* stream, absl::Duration write_timeout, absl::Duration keep_alive_interval)
      : stream_(*stream),
        write_timeout_(write_timeout),
        keep_alive_interval_(keep_alive_interval) {}

  // A request was read; what follows answers it.
  void Begin(ResponseForm form);
  const ResponseForm& form() const { return form_; }
  // After this response the connection ends.
  void CloseAfter() { form_.keep_alive = false; }

  boost::asio::awaitable<bool> Continue();
  boost::asio::awaitable<bool> Write(Response response);

  // What a stream grew by: its head, if it begins, and events, which may be none.
  boost::asio::awaitable<bool> WriteEvents(std::optional<Headers> head, std::string bytes);
  boost::asio::awaitable<bool> WriteEventsEnd();

  // When the stream has been idle for so long that it needs a comment; never when none is open, or
  // an event is only half written.
  Clock::time_point comment_due() const;
  boost::asio::awaitable<bool> WriteComment();

 private:
  std::string EventsHead(const Headers& headers);
  boost::asio::awaitable<bool> Put(std::string wire);
  void ExpireWrite() { stream_.tcp().expires_after(absl::ToChronoNanoseconds(write_timeout_)); }

  Stream& stream_;
  const absl::Duration write_timeout_;
  const absl::Duration keep_alive_interval_;
  ResponseForm form_;
  bool between_events_ = false;
  Clock::time_point last_write_;
};

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_RESPONSE_WRITER_H_
