// One client connection of the HTTP server. Private to gateway/http: it shows Asio and Beast types.
#ifndef TESSERA_GATEWAY_HTTP_CONNECTION_H_
#define TESSERA_GATEWAY_HTTP_CONNECTION_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>

#include "boost/asio/awaitable.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/string_body.hpp"
#include "gateway/http/cors.h"
#include "gateway/http/handler.h"
#include "gateway/http/response_writer.h"
#include "gateway/http/server.h"
#include "gateway/http/stream.h"
#include "gateway/http/tls.h"

namespace tessera::http {

class Outbox;

// What the connections of one server share. All of it outlives them.
struct ConnectionContext {
  const ServerOptions* options = nullptr;
  const Cors* cors = nullptr;
  TlsContext* tls = nullptr;  // null: plain HTTP
  Handler* handler = nullptr;
  // Counts handlers' threads that are inside the executor. It and the executor's context must
  // outlive those calls, which may end after the connection.
  std::atomic<int>* posting = nullptr;
};

// Serves one request after the other. While a request runs, a read watches for the client's
// leaving, and the coroutine sleeps on `wake_` until there is output, an end, or a departure.
//
// All members belong to the executor of the socket (a strand); every method runs there.
class Connection {
 public:
  // With `refuse` every request is answered with 503.
  Connection(boost::asio::ip::tcp::socket socket, const ConnectionContext& context, bool refuse);
  ~Connection();

  // Returns when the connection is closed. The object may be destroyed then, not before.
  boost::asio::awaitable<void> Run();

  // Ends after the request that runs now, at once when there is none.
  void StopSoon();

  // Ends now: the running request is cancelled as if the client had left.
  void StopNow();

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  // What remains to do after a request was read or answered.
  enum class Next { kGoOn, kClose, kLinger };

  boost::asio::awaitable<bool> Open();
  boost::asio::awaitable<bool> WaitForRequest();
  boost::asio::awaitable<Next> ReadRequest(Parser& parser);
  ResponseForm FormOf(const Parser::value_type& message) const;
  boost::asio::awaitable<Next> Serve(Request request);
  Next AfterResponse() const;
  boost::asio::awaitable<void> Deliver(Outbox& outbox);
  boost::asio::awaitable<void> Idle(Outbox& outbox);
  boost::asio::awaitable<Next> Reject(int status, std::string message);
  boost::asio::awaitable<void> Linger();
  boost::asio::awaitable<void> Sleep(std::chrono::steady_clock::time_point until);
  boost::asio::awaitable<void> StopWatch();
  void StartWatch();
  void Wake() { wake_.cancel(); }
  // A write has ended. That it went well does not mean that the client is still there: the watch
  // may have seen it leave in the meantime.
  void Written(bool reached) {
    if (!reached) gone_ = true;
  }

  const ConnectionContext& context_;
  const ServerOptions& options_;
  const bool refuse_;
  const std::string remote_;
  Stream stream_;
  ResponseWriter writer_;
  boost::beast::flat_buffer buffer_;
  boost::asio::steady_timer wake_;

  // No request has begun; StopSoon may close.
  bool idle_ = false;
  bool stopping_ = false;
  // The client has left, or is treated so.
  bool gone_ = false;
  bool watching_ = false;
  bool ending_watch_ = false;
};

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_CONNECTION_H_
