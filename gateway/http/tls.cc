#include "gateway/http/tls.h"

#include <fstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "boost/asio/ssl/context.hpp"
#include "openssl/ssl.h"

namespace tessera::http {
namespace {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

// OpenSSL says of a file that is not there only "system library".
absl::Status CheckReadable(const std::string& what, const std::string& path) {
  if (path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", what, " is not given: TLS needs a certificate and its key"));
  }
  if (std::ifstream(path, std::ios::binary).peek() == std::ifstream::traits_type::eof()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", what, " ", path, " cannot be read, or is empty"));
  }
  return absl::OkStatus();
}

absl::Status Check(const std::string& what, const std::string& path, const error_code& error) {
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the ", what, " ", path, " cannot be used: ", error.message()));
}

}  // namespace

TlsContext::TlsContext(std::unique_ptr<ssl::context> context) : context_(std::move(context)) {}

TlsContext::~TlsContext() = default;

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::Load(const std::string& cert_file,
                                                             const std::string& key_file) {
  const std::string cert_name = "TLS certificate file";
  const std::string key_name = "TLS key file";
  RETURN_IF_ERROR(CheckReadable(cert_name, cert_file));
  RETURN_IF_ERROR(CheckReadable(key_name, key_file));
  auto context = std::make_unique<ssl::context>(ssl::context::tls_server);
  SSL_CTX* const native = context->native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION);
  // A client could make us renegotiate for ever. Sessions are resumed by tickets, which clients
  // keep: no memory of ours grows with their number.
  SSL_CTX_set_options(native, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);

  error_code error;
  // Without this, OpenSSL would ask on the terminal.
  context->set_password_callback([](size_t, ssl::context::password_purpose) { return ""; }, error);
  context->use_certificate_chain_file(cert_file, error);
  RETURN_IF_ERROR(Check(cert_name, cert_file, error));
  context->use_private_key_file(key_file, ssl::context::pem, error);
  RETURN_IF_ERROR(Check(key_name, key_file, error));
  return std::unique_ptr<TlsContext>(new TlsContext(std::move(context)));
}

}  // namespace tessera::http
