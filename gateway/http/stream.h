// The bytes of one connection, plain or through TLS. Private to gateway/http: it shows Asio types,
// but none of TLS.
#ifndef TESSERA_GATEWAY_HTTP_STREAM_H_
#define TESSERA_GATEWAY_HTTP_STREAM_H_

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "boost/asio/async_result.hpp"
#include "boost/asio/awaitable.hpp"
#include "boost/asio/buffer.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/beast/core/buffer_traits.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/system/error_code.hpp"
#include "gateway/http/tls.h"

namespace tessera::http {

// An AsyncReadStream and AsyncWriteStream in Asio's sense. One read and one write may be under way
// at a time; all calls and completions run on the socket's executor. A client that ends its side is
// an error of the read: eof when it said so, another one when it broke off.
class Stream {
 public:
  using executor_type = boost::beast::tcp_stream::executor_type;

  // With `tls`, which must outlive it, nothing may be read or written before the Handshake.
  Stream(boost::asio::ip::tcp::socket socket, TlsContext* tls);
  ~Stream();

  executor_type get_executor() { return tcp_.get_executor(); }

  // The transport. Its timeouts, cancel and close hold for what goes through TLS too.
  boost::beast::tcp_stream& tcp() { return tcp_; }

  // True once bytes can flow: at once without TLS.
  boost::asio::awaitable<bool> Handshake();

  // Writes what there is room for, at once, and returns how much that was. Nothing through TLS, or
  // when there is an error: async_write_some finds it again. Not while a write is under way.
  size_t WriteNow(boost::asio::const_buffer bytes);

  // Says that no more will be written. Only after the last read and write, and not after an error.
  boost::asio::awaitable<void> ShutDownWrites();

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(boost::system::error_code, size_t)>(
        [this, buffers](auto handler) {
          if (tls_ == nullptr) {
            tcp_.async_read_some(buffers, std::move(handler));
          } else {
            ReadTls(First<boost::asio::mutable_buffer>(buffers), std::move(handler));
          }
        },
        token);
  }

  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(boost::system::error_code, size_t)>(
        [this, buffers](auto handler) {
          if (tls_ == nullptr) {
            tcp_.async_write_some(buffers, std::move(handler));
          } else {
            WriteTls(Flat(buffers), std::move(handler));
          }
        },
        token);
  }

 private:
  class Tls;
  // The executor is lost behind it, which does no harm: there is only one.
  using Done = absl::AnyInvocable<void(boost::system::error_code, size_t)>;

  // A TLS record is no larger.
  static constexpr size_t kMaxFlatBytes = 16 << 10;

  template <typename Buffer, typename Buffers>
  static Buffer First(const Buffers& buffers) {
    const auto end = boost::asio::buffer_sequence_end(buffers);
    for (auto i = boost::asio::buffer_sequence_begin(buffers); i != end; ++i) {
      const Buffer buffer = *i;
      if (buffer.size() > 0) return buffer;
    }
    return {};
  }

  // Many small buffers go out as one record.
  template <typename Buffers>
  boost::asio::const_buffer Flat(const Buffers& buffers) {
    const auto first = First<boost::asio::const_buffer>(buffers);
    const size_t size = std::min(kMaxFlatBytes, boost::beast::buffer_bytes(buffers));
    if (first.size() >= size) return first;
    flat_.resize(size);
    boost::asio::buffer_copy(boost::asio::buffer(flat_), buffers);
    return boost::asio::buffer(flat_);
  }

  void ReadTls(boost::asio::mutable_buffer buffer, Done done);
  void WriteTls(boost::asio::const_buffer buffer, Done done);

  boost::beast::tcp_stream tcp_;
  std::unique_ptr<Tls> tls_;  // null without TLS
  std::string flat_;          // what a write of several buffers is writing
};

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_STREAM_H_
