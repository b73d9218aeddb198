#include "gateway/http/stream.h"

#include <tuple>

#include "boost/asio/as_tuple.hpp"
#include "boost/asio/ssl/stream.hpp"
#include "boost/asio/use_awaitable.hpp"

namespace tessera::http {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr auto kUse = asio::as_tuple(asio::use_awaitable);

}  // namespace

class Stream::Tls {
 public:
  Tls(boost::beast::tcp_stream& tcp, asio::ssl::context& context) : stream(tcp, context) {}

  asio::ssl::stream<boost::beast::tcp_stream&> stream;
};

Stream::Stream(asio::ip::tcp::socket socket, TlsContext* tls) : tcp_(std::move(socket)) {
  if (tls != nullptr) tls_ = std::make_unique<Tls>(tcp_, tls->context());
  // For WriteNow; what is asynchronous does not care.
  error_code ignored;
  tcp_.socket().non_blocking(true, ignored);
}

Stream::~Stream() = default;

asio::awaitable<bool> Stream::Handshake() {
  if (tls_ == nullptr) co_return true;
  const auto [error] = co_await tls_->stream.async_handshake(asio::ssl::stream_base::server, kUse);
  co_return !error;
}

size_t Stream::WriteNow(asio::const_buffer bytes) {
  error_code ignored;
  return tls_ == nullptr ? tcp_.socket().write_some(asio::buffer(bytes), ignored) : 0;
}

asio::awaitable<void> Stream::ShutDownWrites() {
  // Waits for the client's own goodbye too; whoever does not want to sets a timeout.
  if (tls_ != nullptr) co_await tls_->stream.async_shutdown(kUse);
  error_code ignored;
  tcp_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
}

void Stream::ReadTls(asio::mutable_buffer buffer, Done done) {
  tls_->stream.async_read_some(buffer, std::move(done));
}

void Stream::WriteTls(asio::const_buffer buffer, Done done) {
  tls_->stream.async_write_some(buffer, std::move(done));
}

}  // namespace tessera::http
