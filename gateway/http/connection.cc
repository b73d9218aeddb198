#include "gateway/http/connection.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <tuple>
#include <utility>

#include "boost/asio/as_tuple.hpp"
#include "boost/asio/buffer.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/beast/core/error.hpp"
#include "boost/beast/core/string.hpp"
#include "boost/beast/http/error.hpp"
#include "boost/beast/http/read.hpp"
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
// For the exchange of goodbyes that ends TLS.
constexpr auto kGoodbyeTime = std::chrono::seconds(1);

constexpr auto kUse = asio::as_tuple(asio::use_awaitable);

std::chrono::nanoseconds Chrono(absl::Duration duration) {
  return absl::ToChronoNanoseconds(duration);
}

// The address without the port; empty when the client has left already.
std::string RemoteOf(const asio::ip::tcp::socket& socket) {
  error_code error;
  asio::ip::address address = socket.remote_endpoint(error).address();
  if (error) return {};
  // A socket for both families shows IPv4 as ::ffff:192.0.2.7.
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  }
  return address.to_string();
}

std::string_view View(beast::string_view text) { return {text.data(), text.size()}; }

Request MakeRequest(bhttp::request<bhttp::string_body>&& message) {
  Request request;
  request.method = std::string(message.method_string());
  request.path = PathOf(View(message.target()));
  request.query = QueryOf(View(message.target()));
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

Connection::Connection(asio::ip::tcp::socket socket, const ConnectionContext& context, bool refuse)
    : context_(context),
      options_(*context.options),
      refuse_(refuse),
      remote_(RemoteOf(socket)),
      stream_(std::move(socket), context.tls),
      writer_(&stream_, options_.write_timeout, options_.keep_alive_interval),
      buffer_(options_.max_header_bytes + kMaxPipelinedBytes + (64 << 10)),
      wake_(stream_.get_executor()) {
  error_code ignored;
  stream_.tcp().socket().set_option(asio::ip::tcp::no_delay(true), ignored);
}

Connection::~Connection() = default;

asio::awaitable<void> Connection::Run() {
  Next next = co_await Open() ? Next::kGoOn : Next::kClose;
  while (next == Next::kGoOn && !stopping_) {
    const bool any = co_await WaitForRequest();
    if (!any) break;
    // One parser a request; it is large, so not on the coroutine's frame for the connection's life.
    auto parser = std::make_unique<Parser>();
    next = co_await ReadRequest(*parser);
    if (next != Next::kGoOn) break;
    Request request = MakeRequest(parser->release());
    parser.reset();
    request.remote = remote_;
    next = co_await Serve(std::move(request));
  }
  if (!gone_) {
    stream_.tcp().expires_after(kGoodbyeTime);
    co_await stream_.ShutDownWrites();
    if (next == Next::kLinger) co_await Linger();
  }
  error_code ignored;
  stream_.tcp().socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  stream_.tcp().socket().close(ignored);
}

void Connection::StopSoon() {
  stopping_ = true;
  if (idle_) stream_.tcp().cancel();
}

void Connection::StopNow() {
  stopping_ = true;
  gone_ = true;
  // Not only what is pending: what starts after this must fail too.
  stream_.tcp().close();
  Wake();
}

asio::awaitable<bool> Connection::Open() {
  stream_.tcp().expires_after(Chrono(options_.header_timeout));
  idle_ = true;
  const bool open = co_await stream_.Handshake();
  idle_ = false;
  if (!open) gone_ = true;
  co_return open;
}

// True when the first bytes of a request are in the buffer.
asio::awaitable<bool> Connection::WaitForRequest() {
  if (buffer_.size() > 0) co_return true;
  stream_.tcp().expires_after(Chrono(options_.idle_timeout));
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
  // Of a request whose headers cannot be read, this is known.
  writer_.Begin({.headers = context_.cors->ResponseHeaders({})});
  stream_.tcp().expires_after(Chrono(options_.header_timeout));
  error_code error;
  std::tie(error, std::ignore) = co_await bhttp::async_read_header(stream_, buffer_, parser, kUse);
  // A length over the limit is found when all headers have been read.
  if (parser.is_header_done() || error == bhttp::error::body_limit) {
    writer_.Begin(FormOf(parser.get()));
  }
  if (!error) {
    if (refuse_) co_return co_await Reject(503, "too many connections: try again later");
    if (parser.get().version() == 11 &&
        beast::iequals(parser.get()[bhttp::field::expect], "100-continue")) {
      const bool told = co_await writer_.Continue();
      if (!told) co_return Next::kClose;
    }
    stream_.tcp().expires_after(Chrono(options_.body_timeout));
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

ResponseForm Connection::FormOf(const Parser::value_type& message) const {
  return {.version = message.version(),
          .keep_alive = message.keep_alive(),
          .head_only = message.method() == bhttp::verb::head,
          .headers = context_.cors->ResponseHeaders(View(message[bhttp::field::origin]))};
}

asio::awaitable<Connection::Next> Connection::Serve(Request request) {
  if (std::optional<Response> preflight = context_.cors->Preflight(request)) {
    Written(co_await writer_.Write(*std::move(preflight)));
    co_return AfterResponse();
  }
  Outbox outbox(stream_.get_executor(), context_.posting, options_.max_buffered_bytes, &wake_);
  if (writer_.form().head_only) request.method = "GET";
  std::unique_ptr<Work> work = context_.handler->Handle(std::move(request), outbox);
  bool cancelled = false;
  StartWatch();
  while (true) {
    if (gone_ && !cancelled) {
      cancelled = true;
      outbox.Close();
      if (work != nullptr) work->Cancel();
    }
    if (outbox.HasOutput()) {
      co_await Deliver(outbox);
    } else if (outbox.finished()) {
      break;
    } else {
      co_await Idle(outbox);
    }
  }
  // A stream is the only thing that was begun and still needs an end.
  if (!gone_ && outbox.events_begun()) {
    if (outbox.lost()) {
      gone_ = true;
    } else {
      Written(co_await writer_.WriteEventsEnd());
    }
  }
  co_await StopWatch();
  co_return AfterResponse();
}

Connection::Next Connection::AfterResponse() const {
  return gone_ || stopping_ || !writer_.form().keep_alive ? Next::kClose : Next::kGoOn;
}

// Writes what the outbox holds; drops it when the client has left.
asio::awaitable<void> Connection::Deliver(Outbox& outbox) {
  if (stopping_) writer_.CloseAfter();
  std::optional<Response> response = outbox.TakeResponse();
  if (response && !gone_) Written(co_await writer_.Write(*std::move(response)));
  std::optional<Headers> head = outbox.TakeEventsHead();
  std::string events = outbox.TakeEvents();
  const size_t size = events.size();
  if ((head || size > 0) && !gone_) {
    Written(co_await writer_.WriteEvents(std::move(head), std::move(events)));
  }
  outbox.Written(size);
}

// The handler has nothing to say now: waits until it has, and does what is due without it.
asio::awaitable<void> Connection::Idle(Outbox& outbox) {
  const auto now = Outbox::Clock::now();
  // To a client that has left, or has been given up, nothing is due.
  const bool open = !gone_ && !outbox.lost();
  const auto promised = open ? outbox.promised() : Outbox::kNever;
  const auto comment = open ? writer_.comment_due() : Outbox::kNever;
  if (promised <= now) {
    outbox.KeepPromise();
  } else if (comment <= now) {
    Written(co_await writer_.WriteComment());
  } else {
    co_await Sleep(std::min(promised, comment));
  }
}

asio::awaitable<Connection::Next> Connection::Reject(int status, std::string message) {
  writer_.CloseAfter();
  const bool written = co_await writer_.Write(context_.handler->Refuse(status, message));
  co_return written ? Next::kLinger : Next::kClose;
}

// Reads away what a refused client still sends: closing at once would reset the connection and
// could lose the refusal before the client has read it. TLS has ended by then, so what comes is not
// decrypted.
asio::awaitable<void> Connection::Linger() {
  stream_.tcp().expires_after(kLingerTime);
  std::string scratch(64 << 10, '\0');
  for (size_t total = 0; total < kMaxLingerBytes && !gone_;) {
    const auto [error, bytes] = co_await stream_.tcp().async_read_some(asio::buffer(scratch), kUse);
    if (error) break;
    total += bytes;
  }
}

// Returns at the next Wake, or at that time. Whoever changes what the caller waits for runs on this
// executor too, so a wake cannot fall between the caller's check and this wait.
asio::awaitable<void> Connection::Sleep(std::chrono::steady_clock::time_point until) {
  wake_.expires_at(until);
  co_await wake_.async_wait(kUse);
}

// Reads while a request runs, to see the client leave (a half-closed connection counts as left) and
// to keep what it sends of its next request.
void Connection::StartWatch() {
  if (watching_ || gone_ || buffer_.size() >= kMaxPipelinedBytes) return;
  watching_ = true;
  stream_.tcp().expires_never();
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
  if (watching_) stream_.tcp().cancel();
  while (watching_) co_await Sleep(Outbox::kNever);
  ending_watch_ = false;
}

}  // namespace tessera::http
