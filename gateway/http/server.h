// An HTTP/1.1 server: keep-alive, server-sent events, limits on everything a client can make it
// hold.
#ifndef TESSERA_GATEWAY_HTTP_SERVER_H_
#define TESSERA_GATEWAY_HTTP_SERVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/http/handler.h"

namespace tessera::http {

struct ServerOptions {
  // "host:port"; an IPv6 host in brackets. Port 0 takes a free one.
  std::string listen = "0.0.0.0:8000";
  // Threads that serve all connections. A stream costs no thread.
  int threads = 2;
  // Past this many connections a few more are answered with 503, the rest are closed at once. The
  // process's limit of open files is raised to hold them, as far as its hard limit allows.
  size_t max_connections = 4096;
  // A request with a larger body is answered with 413.
  uint64_t max_body_bytes = 16 << 20;
  // Request line and headers together; more is answered with 431.
  uint32_t max_header_bytes = 16 << 10;
  // Bytes of one stream that wait for a slow client before the stream is given up.
  size_t max_buffered_bytes = 256 << 10;
  // A kept-alive connection without a request is closed after this.
  absl::Duration idle_timeout = absl::Seconds(75);
  // From the first byte of a request to the end of its headers, and then to the end of its body; a
  // slower client is disconnected.
  absl::Duration header_timeout = absl::Seconds(10);
  absl::Duration body_timeout = absl::Seconds(60);
  // For one write to a client that does not read.
  absl::Duration write_timeout = absl::Seconds(30);
  // A stream of events on which nothing was written for so long gets a comment line, so that no
  // proxy takes it for dead. Clients do not see comments.
  absl::Duration keep_alive_interval = absl::Seconds(15);
  // Web pages that may use this server: origins such as "https://chat.example.org", or "*" for all.
  // Empty: no page may, and OPTIONS requests go to the handler.
  std::vector<std::string> cors_origins;
  // PEM files of the certificate (with the chain behind it) and of its key, without a passphrase.
  // Both or neither; with them the server speaks TLS 1.2 and 1.3 only, no plain HTTP. The handshake
  // counts as part of the first request's headers: header_timeout.
  std::string tls_cert_file;
  std::string tls_key_file;
};

// Thread-safe. Destruction stops it without a drain.
class Server {
 public:
  virtual ~Server() = default;

  // Listens and serves until Stop. `handler` must outlive the server. Errors: InvalidArgument
  // (address, origins, TLS files by name), Unavailable ("cannot listen on ...: why").
  static absl::StatusOr<std::unique_ptr<Server>> Listen(const ServerOptions& options,
                                                        Handler* handler);

  // Where it listens, with the real port: "0.0.0.0:8000".
  virtual std::string address() const = 0;
  virtual int port() const = 0;

  // Connections open now.
  virtual size_t connections() const = 0;

  // Takes no new connection, lets running requests end for `drain` at most, cancels what is left,
  // and returns when every connection is closed and every thread has ended.
  virtual void Stop(absl::Duration drain) = 0;
};

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_SERVER_H_
