#include "gateway/http/response_writer.h"

#include <string_view>
#include <tuple>
#include <utility>

#include "boost/asio/as_tuple.hpp"
#include "boost/asio/buffer.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/http/chunk_encode.hpp"
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

asio::awaitable<bool> ResponseWriter::WriteEventsHead(Headers headers) {
  bhttp::response<bhttp::empty_body> message;
  message.result(bhttp::status::ok);
  message.set(bhttp::field::content_type, "text/event-stream; charset=utf-8");
  message.set(bhttp::field::cache_control, "no-cache");
  // Without chunks only the connection's end ends the stream.
  if (form_.version == 10) CloseAfter();
  SetHeaders(form_, headers, message);
  if (form_.version == 11) message.chunked(true);
  ExpireWrite();
  bhttp::response_serializer<bhttp::empty_body> serializer(message);
  const auto [error, bytes] = co_await bhttp::async_write_header(stream_, serializer, kUse);
  between_events_ = !form_.head_only;
  last_write_ = Clock::now();
  co_return !error;
}

asio::awaitable<bool> ResponseWriter::WriteEvents(std::string bytes) {
  if (form_.head_only) co_return true;
  ExpireWrite();
  error_code error;
  if (form_.version == 11) {
    std::tie(error, std::ignore) =
        co_await asio::async_write(stream_, bhttp::make_chunk(asio::buffer(bytes)), kUse);
  } else {
    std::tie(error, std::ignore) = co_await asio::async_write(stream_, asio::buffer(bytes), kUse);
  }
  between_events_ = std::string_view(bytes).ends_with(kEventEnd);
  last_write_ = Clock::now();
  co_return !error;
}

asio::awaitable<bool> ResponseWriter::WriteEventsEnd() {
  between_events_ = false;
  if (form_.version != 11 || form_.head_only) co_return true;
  ExpireWrite();
  const auto [error, bytes] = co_await asio::async_write(stream_, bhttp::make_chunk_last(), kUse);
  co_return !error;
}

ResponseWriter::Clock::time_point ResponseWriter::comment_due() const {
  if (!between_events_ || keep_alive_interval_ == absl::InfiniteDuration()) {
    return Clock::time_point::max();
  }
  return last_write_ + absl::ToChronoNanoseconds(keep_alive_interval_);
}

asio::awaitable<bool> ResponseWriter::WriteComment() { return WriteEvents(std::string(kComment)); }

}  // namespace tessera::http
