// One client connection of the HTTP server. Private to gateway/http: it shows Asio and Beast types.
#ifndef TESSERA_GATEWAY_HTTP_CONNECTION_H_
#define TESSERA_GATEWAY_HTTP_CONNECTION_H_

#include <atomic>
#include <cstddef>
#include <optional>

#include "boost/asio/awaitable.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/string_body.hpp"
#include "gateway/http/handler.h"
#include "gateway/http/server.h"

namespace tessera::http {

class Outbox;

// Serves one request after the other. While a request runs, a read watches for the client's
// leaving, and the coroutine sleeps on `wake_` until there is output, an end, or a departure.
//
// All members belong to the executor of the socket (a strand); every method runs there.
class Connection {
 public:
  // `options` and `handler` must outlive it. `posting` counts handlers' threads that are inside the
  // executor; it and the executor's context must outlive those calls, which may end after the
  // connection. With `refuse` every request is answered with 503.
  Connection(boost::asio::ip::tcp::socket socket, const ServerOptions& options, Handler* handler,
             std::atomic<int>* posting, bool refuse);
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

  boost::asio::awaitable<bool> WaitForRequest();
  boost::asio::awaitable<Next> ReadRequest(Parser& parser);
  boost::asio::awaitable<Next> Serve(Request request, bool head_only);
  boost::asio::awaitable<void> Deliver(Outbox& outbox, bool head_only);
  boost::asio::awaitable<bool> WriteResponse(Response response, bool keep_alive, bool head_only);
  boost::asio::awaitable<bool> WriteEventsHead(Headers headers);
  boost::asio::awaitable<bool> WriteEvents(std::string bytes);
  boost::asio::awaitable<bool> WriteEventsEnd();
  boost::asio::awaitable<Next> Reject(int status, std::string message);
  boost::asio::awaitable<void> Linger();
  boost::asio::awaitable<void> Sleep();
  boost::asio::awaitable<void> StopWatch();
  void StartWatch();
  void Wake() { wake_.cancel(); }

  const ServerOptions& options_;
  Handler* const handler_;
  std::atomic<int>* const posting_;
  const bool refuse_;
  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  boost::asio::steady_timer wake_;

  // HTTP version of the current request (10 or 11): 1.0 knows no chunks.
  unsigned version_ = 11;
  bool keep_alive_ = true;
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
