// The server's side of TLS: certificate, key and protocol versions. Private to gateway/http.
#ifndef TESSERA_GATEWAY_HTTP_TLS_H_
#define TESSERA_GATEWAY_HTTP_TLS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace boost::asio::ssl {
class context;
}  // namespace boost::asio::ssl

namespace tessera::http {

// What all TLS connections of a server share. Not changed after Load, so thread-safe.
class TlsContext {
 public:
  // Reads the PEM files: the certificate with the chain behind it, and its key without a
  // passphrase. Versions older than TLS 1.2 are not spoken. Errors: InvalidArgument, naming the
  // file.
  static absl::StatusOr<std::unique_ptr<TlsContext>> Load(const std::string& cert_file,
                                                          const std::string& key_file);
  ~TlsContext();

  boost::asio::ssl::context& context() { return *context_; }

 private:
  explicit TlsContext(std::unique_ptr<boost::asio::ssl::context> context);

  const std::unique_ptr<boost::asio::ssl::context> context_;
};

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_TLS_H_
