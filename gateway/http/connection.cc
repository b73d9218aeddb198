#include "gateway/http/connection.h"

#include <chrono>
#include <string>
#include <tuple>
#include <utility>

#include "boost/asio/as_tuple.hpp"
#include "boost/asio/buffer.hpp"
#include "boost/asio/read.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/core/error.hpp"
#include "boost/beast/http/chunk_encode.hpp"
#include "boost/beast/http/empty_body.hpp"
#include "boost/beast/http/error.hpp"
#include "boost/beast/http/read.hpp"
#include "boost/beast/http/write.hpp"
#include "gateway/http/outbox.h"
#include "gateway/http/target.h"

namespace tessera::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace bhttp = boost::beast::http;
using boost::system::error_code;

constexpr size_t kReadBytes = 4096;
// While a request runs, a client may send this much of its next one before we stop listening to it.
constexpr size_t kMaxPipelinedBytes = 16 << 10;
// A client that was refused in the middle of its body may send this much more, for this long, so
// that it gets to read the refusal instead of a reset.
constexpr size_t kMaxLingerBytes = 64 << 20;
constexpr auto kLingerTime = std::chrono::seconds(5);

constexpr auto kUse = asio::as_tuple(asio::use_awaitable);

std::chrono::nanoseconds Chrono(absl::Duration duration) {
  return absl::ToChronoNanoseconds(duration);
}

Request MakeRequest(bhttp::request<bhttp::string_body>&& message) {
  Request request;
  request.method = std::string(message.method_string());
  request.path = PathOf(std::string_view(message.target().data(), message.target().size()));
  for (const auto& field : message) {
    std::string name(field.name_string());
    for (char& c : name) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    request.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  request.body = std::move(message.body());
  return request;
}

}  // namespace

Connection::Connection(asio::ip::tcp::socket socket, const ServerOptions& options, Handler* handler,
                       std::atomic<int>* posting, bool refuse)
    : options_(options),
      handler_(handler),
      posting_(posting),
      refuse_(refuse),
      stream_(std::move(socket)),
      buffer_(options.max_header_bytes + kMaxPipelinedBytes + (64 << 10)),
      wake_(stream_.get_executor()) {
  error_code ignored;
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
}

Connection::~Connection() = default;

asio::awaitable<void> Connection::Run() {
  Next next = Next::kGoOn;
  while (next == Next::kGoOn && !stopping_) {
    const bool any = co_await WaitForRequest();
    if (!any) break;
    // One parser a request; it is large, so not on the coroutine's frame for the connection's life.
    auto parser = std::make_unique<Parser>();
    next = co_await ReadRequest(*parser);
    if (next != Next::kGoOn) break;
    const bool head_only = parser->get().method() == bhttp::verb::head;
    Request request = MakeRequest(parser->release());
    parser.reset();
    next = co_await Serve(std::move(request), head_only);
  }
  if (next == Next::kLinger) co_await Linger();
  error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  stream_.socket().close(ignored);
}

void Connection::StopSoon() {
  stopping_ = true;
  if (idle_) stream_.cancel();
}

void Connection::StopNow() {
  stopping_ = true;
  gone_ = true;
  // Not only what is pending: what starts after this must fail too.
  stream_.close();
  Wake();
}

// True when the first bytes of a request are in the buffer.
asio::awaitable<bool> Connection::WaitForRequest() {
  if (buffer_.size() > 0) co_return true;
  stream_.expires_after(Chrono(options_.idle_timeout));
  idle_ = true;
  const auto [error, bytes] = co_await stream_.async_read_some(buffer_.prepare(kReadBytes), kUse);
  idle_ = false;
  if (error) co_return false;
  buffer_.commit(bytes);
  co_return true;
}

asio::awaitable<Connection::Next> Connection::ReadRequest(Parser& parser) {
  parser.header_limit(options_.max_header_bytes);
  parser.body_limit(options_.max_body_bytes);
  stream_.expires_after(Chrono(options_.header_timeout));
  error_code error;
  std::tie(error, std::ignore) = co_await bhttp::async_read_header(stream_, buffer_, parser, kUse);
  if (!error) {
    version_ = parser.get().version();
    keep_alive_ = parser.get().keep_alive();
    if (refuse_) co_return co_await Reject(503, "too many connections: try again later");
    if (beast::iequals(parser.get()[bhttp::field::expect], "100-continue")) {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      std::tie(error, std::ignore) = co_await asio::async_write(
          stream_, asio::buffer(kContinue.data(), kContinue.size()), kUse);
      if (error) co_return Next::kClose;
    }
    stream_.expires_after(Chrono(options_.body_timeout));
    std::tie(error, std::ignore) = co_await bhttp::async_read(stream_, buffer_, parser, kUse);
  }
  if (!error) co_return Next::kGoOn;
  if (error == bhttp::error::body_limit) {
    co_return co_await Reject(
        413, "the request body is larger than " + std::to_string(options_.max_body_bytes) +
                 " bytes: send a shorter prompt, or raise --max_body_bytes of the gateway");
  }
  if (error == bhttp::error::header_limit || error == bhttp::error::buffer_overflow) {
    co_return co_await Reject(431, "the request line and headers are larger than " +
                                       std::to_string(options_.max_header_bytes) + " bytes");
  }
  if (error == bhttp::error::end_of_stream || error == bhttp::error::partial_message ||
      error.category() != make_error_code(bhttp::error::bad_version).category()) {
    co_return Next::kClose;
  }
  co_return co_await Reject(400, "the request is not valid HTTP/1.1: " + error.message());
}

asio::awaitable<Connection::Next> Connection::Serve(Request request, bool head_only) {
  Outbox outbox(stream_.get_executor(), posting_, options_.max_buffered_bytes, &wake_);
  if (head_only) request.method = "GET";
  std::unique_ptr<Work> work = handler_->Handle(std::move(request), outbox);
  bool cancelled = false;
  StartWatch();
  while (true) {
    if (gone_ && !cancelled) {
      cancelled = true;
      outbox.Close();
      if (work != nullptr) work->Cancel();
    }
    if (outbox.HasOutput()) {
      co_await Deliver(outbox, head_only);
    } else if (outbox.finished()) {
      break;
    } else {
      co_await Sleep();
    }
  }
  // A stream is the only thing that was begun and still needs an end.
  if (!gone_ && outbox.events_begun()) {
    if (outbox.lost()) {
      gone_ = true;
    } else {
      gone_ = !co_await WriteEventsEnd();
    }
  }
  co_await StopWatch();
  co_return gone_ || !keep_alive_ || stopping_ ? Next::kClose : Next::kGoOn;
}

// Writes what the outbox holds; drops it when the client has left.
asio::awaitable<void> Connection::Deliver(Outbox& outbox, bool head_only) {
  std::optional<Response> response = outbox.TakeResponse();
  if (response && !gone_) {
    const bool keep_alive = keep_alive_ && !stopping_;
    gone_ = !co_await WriteResponse(*std::move(response), keep_alive, head_only);
  }
  std::optional<Headers> head = outbox.TakeEventsHead();
  if (head && !gone_) gone_ = !co_await WriteEventsHead(*std::move(head));
  std::string events = outbox.TakeEvents();
  const size_t size = events.size();
  if (!events.empty() && !gone_) gone_ = !co_await WriteEvents(std::move(events));
  outbox.Written(size);
}

asio::awaitable<bool> Connection::WriteResponse(Response response, bool keep_alive,
                                                bool head_only) {
  bhttp::response<bhttp::string_body> message;
  message.version(version_);
  message.result(static_cast<unsigned>(response.status));
  message.set(bhttp::field::server, "tessera");
  message.set(bhttp::field::content_type, response.content_type);
  for (const auto& [name, value] : response.headers) message.set(name, value);
  message.keep_alive(keep_alive);
  message.content_length(response.body.size());
  message.body() = std::move(response.body);
  stream_.expires_after(Chrono(options_.write_timeout));
  error_code error;
  if (head_only) {
    bhttp::response_serializer<bhttp::string_body> serializer(message);
    std::tie(error, std::ignore) = co_await bhttp::async_write_header(stream_, serializer, kUse);
  } else {
    std::tie(error, std::ignore) = co_await bhttp::async_write(stream_, message, kUse);
  }
  co_return !error;
}

asio::awaitable<bool> Connection::WriteEventsHead(Headers headers) {
  bhttp::response<bhttp::empty_body> message;
  message.version(version_);
  message.result(bhttp::status::ok);
  message.set(bhttp::field::server, "tessera");
  message.set(bhttp::field::content_type, "text/event-stream; charset=utf-8");
  message.set(bhttp::field::cache_control, "no-cache");
  for (const auto& [name, value] : headers) message.set(name, value);
  if (version_ == 10) keep_alive_ = false;
  message.keep_alive(keep_alive_);
  if (version_ == 11) message.chunked(true);
  stream_.expires_after(Chrono(options_.write_timeout));
  bhttp::response_serializer<bhttp::empty_body> serializer(message);
  const auto [error, bytes] = co_await bhttp::async_write_header(stream_, serializer, kUse);
  co_return !error;
}

asio::awaitable<bool> Connection::WriteEvents(std::string bytes) {
  stream_.expires_after(Chrono(options_.write_timeout));
  error_code error;
  if (version_ == 11) {
    std::tie(error, std::ignore) =
        co_await asio::async_write(stream_, bhttp::make_chunk(asio::buffer(bytes)), kUse);
  } else {
    std::tie(error, std::ignore) = co_await asio::async_write(stream_, asio::buffer(bytes), kUse);
  }
  co_return !error;
}

asio::awaitable<bool> Connection::WriteEventsEnd() {
  if (version_ != 11) co_return true;
  stream_.expires_after(Chrono(options_.write_timeout));
  const auto [error, bytes] = co_await asio::async_write(stream_, bhttp::make_chunk_last(), kUse);
  co_return !error;
}

asio::awaitable<Connection::Next> Connection::Reject(int status, std::string message) {
  const bool written =
      co_await WriteResponse(handler_->Refuse(status, message), /*keep_alive=*/false, false);
  co_return written ? Next::kLinger : Next::kClose;
}

// Reads away what a refused client still sends: closing at once would reset the connection and
// could lose the refusal before the client has read it.
asio::awaitable<void> Connection::Linger() {
  error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  stream_.expires_after(kLingerTime);
  std::string scratch(64 << 10, '\0');
  for (size_t total = 0; total < kMaxLingerBytes && !gone_;) {
    const auto [error, bytes] = co_await stream_.async_read_some(asio::buffer(scratch), kUse);
    if (error) break;
    total += bytes;
  }
}

// Returns at the next Wake. Whoever changes what the caller waits for runs on this executor too, so
// a wake cannot fall between the caller's check and this wait.
asio::awaitable<void> Connection::Sleep() {
  wake_.expires_at(std::chrono::steady_clock::time_point::max());
  co_await wake_.async_wait(kUse);
}

// Reads while a request runs, to see the client leave (a half-closed connection counts as left) and
// to keep what it sends of its next request.
void Connection::StartWatch() {
  if (watching_ || gone_ || buffer_.size() >= kMaxPipelinedBytes) return;
  watching_ = true;
  stream_.expires_never();
  stream_.async_read_some(buffer_.prepare(kReadBytes), [this](error_code error, size_t bytes) {
    watching_ = false;
    if (error) {
      if (!ending_watch_) gone_ = true;
    } else {
      buffer_.commit(bytes);
      if (!ending_watch_) StartWatch();
    }
    Wake();
  });
}

asio::awaitable<void> Connection::StopWatch() {
  ending_watch_ = true;
  if (watching_) stream_.cancel();
  while (watching_) co_await Sleep();
  ending_watch_ = false;
}

}  // namespace tessera::http
