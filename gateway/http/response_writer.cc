#include "gateway/http/response_writer.h"

#include <sstream>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/asio/as_tuple.hpp"
#include "boost/asio/buffer.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/http/empty_body.hpp"
#include "boost/beast/http/message.hpp"
#include "boost/beast/http/string_body.hpp"
#include "boost/beast/http/write.hpp"

namespace tessera::http {
namespace {

namespace asio = boost::asio;
namespace bhttp = boost::beast::http;
using boost::system::error_code;

constexpr auto kUse = asio::as_tuple(asio::use_awaitable);
constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr std::string_view kComment = ": keep-alive\n\n";
constexpr std::string_view kEventEnd = "\n\n";
constexpr std::string_view kLastChunk = "0\r\n\r\n";

// Of statuses that have no body, and so no length of it.
bool HasBody(int status) { return status != 204 && status != 304; }

template <typename Message>
void SetHeaders(const ResponseForm& form, const Headers& headers, Message& message) {
  message.version(form.version);
  message.set(bhttp::field::server, "tessera");
  for (const auto& [name, value] : form.headers) message.set(name, value);
  for (const auto& [name, value] : headers) message.set(name, value);
  message.keep_alive(form.keep_alive);
}

}  // namespace

void ResponseWriter::Begin(ResponseForm form) {
  form_ = std::move(form);
  between_events_ = false;
}

asio::awaitable<bool> ResponseWriter::Continue() {
  ExpireWrite();
  const auto [error, bytes] =
      co_await asio::async_write(stream_, asio::buffer(kContinue.data(), kContinue.size()), kUse);
  co_return !error;
}

asio::awaitable<bool> ResponseWriter::Write(Response response) {
  bhttp::response<bhttp::string_body> message;
  message.result(static_cast<unsigned>(response.status));
  if (!response.content_type.empty()) {
    message.set(bhttp::field::content_type, response.content_type);
  }
  SetHeaders(form_, response.headers, message);
  if (HasBody(response.status)) message.content_length(response.body.size());
  message.body() = std::move(response.body);
  ExpireWrite();
  error_code error;
  if (form_.head_only || !HasBody(response.status)) {
    bhttp::response_serializer<bhttp::string_body> serializer(message);
    std::tie(error, std::ignore) = co_await bhttp::async_write_header(stream_, serializer, kUse);
  } else {
    std::tie(error, std::ignore) = co_await bhttp::async_write(stream_, message, kUse);
  }
  co_return !error;
}

std::string ResponseWriter::EventsHead(const Headers& headers) {
  bhttp::response<bhttp::empty_body> message;
  message.result(bhttp::status::ok);
  message.set(bhttp::field::content_type, "text/event-stream; charset=utf-8");
  message.set(bhttp::field::cache_control, "no-cache");
  // Without chunks only the connection's end ends the stream.
  if (form_.version == 10) CloseAfter();
  SetHeaders(form_, headers, message);
  if (form_.version == 11) message.chunked(true);
  std::ostringstream head;
  head << message.base();
  return std::move(head).str();
}

asio::awaitable<bool> ResponseWriter::WriteEvents(std::optional<Headers> head, std::string bytes) {
  std::string wire;
  if (head) wire = EventsHead(*head);
  if (form_.head_only) bytes.clear();
  if (!bytes.empty() && form_.version == 11) {
    absl::StrAppend(&wire, absl::Hex(bytes.size()), "\r\n", bytes, "\r\n");
  } else {
    wire += bytes;
  }
  if (wire.empty()) co_return true;
  const bool written = co_await Put(std::move(wire));
  between_events_ =
      !form_.head_only && (bytes.empty() || std::string_view(bytes).ends_with(kEventEnd));
  last_write_ = Clock::now();
  co_return written;
}

asio::awaitable<bool> ResponseWriter::WriteEventsEnd() {
  between_events_ = false;
  if (form_.version != 11 || form_.head_only) co_return true;
  const bool written = co_await Put(std::string(kLastChunk));
  co_return written;
}

// A client that reads has room, so that neither a timer nor a turn of the executor is needed: for a
// stream's events they cost more than the write.
asio::awaitable<bool> ResponseWriter::Put(std::string wire) {
  const size_t written = stream_.WriteNow(asio::buffer(wire));
  if (written == wire.size()) co_return true;
  ExpireWrite();
  const auto [error, bytes] =
      co_await asio::async_write(stream_, asio::buffer(wire) + written, kUse);
  co_return !error;
}

ResponseWriter::Clock::time_point ResponseWriter::comment_due() const {
  if (!between_events_ || keep_alive_interval_ == absl::InfiniteDuration()) {
    return Clock::time_point::max();
  }
  return last_write_ + absl::ToChronoNanoseconds(keep_alive_interval_);
}

asio::awaitable<bool> ResponseWriter::WriteComment() {
  return WriteEvents(std::nullopt, std::string(kComment));
}

}  // namespace tessera::http
