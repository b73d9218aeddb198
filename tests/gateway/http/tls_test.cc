#include <sys/socket.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/http/server.h"
#include "glog/logging.h"
#include "gtest/gtest.h"
#include "openssl/ssl.h"
#include "tests/gateway/http/server_fixture.h"
#include "tests/gateway/http/test_certificate.h"
#include "tests/gateway/test_client.h"

namespace tessera::http {
namespace {

constexpr absl::Duration kLong = absl::Seconds(30);

// A client that trusts only the test's certificate.
class TlsClient final : public TestClient {
 public:
  TlsClient(int port, const std::string& cert_file, int max_version = TLS1_3_VERSION)
      : TestClient(port), context_(SSL_CTX_new(TLS_client_method())) {
    CHECK_EQ(SSL_CTX_load_verify_locations(context_, cert_file.c_str(), nullptr), 1);
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_max_proto_version(context_, max_version);
    // Debian's default refuses old versions in the client already.
    SSL_CTX_set_security_level(context_, 0);
    SSL_CTX_set_min_proto_version(context_, TLS1_VERSION);
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, socket());
    connected_ = SSL_connect(ssl_) == 1;
  }
  ~TlsClient() override {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }

  bool connected() const { return connected_; }
  std::string version() const { return SSL_get_version(ssl_); }
  // Says that no more will come, but leaves the connection open.
  void SayGoodbye() { SSL_shutdown(ssl_); }

 protected:
  ssize_t SendSome(const char* bytes, size_t size) override {
    const int sent = SSL_write(ssl_, bytes, static_cast<int>(size));
    return sent > 0 ? sent : -1;
  }

  ssize_t ReceiveSome(char* bytes, size_t size) override {
    const int received = SSL_read(ssl_, bytes, static_cast<int>(size));
    if (received > 0) return received;
    return SSL_get_error(ssl_, received) == SSL_ERROR_ZERO_RETURN ? 0 : -1;
  }

 private:
  SSL_CTX* const context_;
  SSL* ssl_ = nullptr;
  bool connected_ = false;
};

class TlsTest : public ServerTest {
 protected:
  TlsTest() { WriteTestCertificate(cert_, key_); }

  void StartTls(ServerOptions options) {
    options.tls_cert_file = cert_;
    options.tls_key_file = key_;
    Start(options);
  }

  std::unique_ptr<TlsClient> Connect() {
    auto client = std::make_unique<TlsClient>(server_->port(), cert_);
    EXPECT_TRUE(client->connected());
    return client;
  }

  const std::string cert_ = testing::TempDir() + "/cert.pem";
  const std::string key_ = testing::TempDir() + "/key.pem";
};

TEST_F(TlsTest, AnswersAndKeepsTheConnection) {
  StartTls({});
  const auto client = Connect();
  EXPECT_EQ(client->version(), "TLSv1.3");
  const std::string large(3 << 20, 'y');
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(client->Call("POST", "/a", "hello")->body, "POST /a  hello");
    EXPECT_EQ(client->Call("POST", "/b", large)->body, "POST /b  " + large);
  }
  EXPECT_EQ(server_->connections(), 1u);
}

TEST_F(TlsTest, EndsWithAGoodbye) {
  StartTls({});
  const auto client = Connect();
  ASSERT_TRUE(client->Call("GET", "/x", "", "Connection: close\r\n").has_value());
  EXPECT_TRUE(client->ReceiveEnd());
}

TEST_F(TlsTest, Streams) {
  StartTls({});
  const auto client = Connect();
  for (int round = 0; round < 2; ++round) {
    const auto response = client->Call("GET", "/count");
    ASSERT_TRUE(response.has_value());
    ASSERT_EQ(SplitEvents(response->body).size(), 1000u);
  }
}

TEST_F(TlsTest, AnIdleStreamGetsComments) {
  StartTls({.keep_alive_interval = absl::Milliseconds(5)});
  const auto client = Connect();
  ASSERT_TRUE(client->SendRequest("GET", "/hold"));
  ASSERT_TRUE(client->ReceiveHead().has_value());
  EXPECT_EQ(client->ReceiveEvent(), "first");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(client->ReceiveEvent(), ": keep-alive");
}

TEST_F(TlsTest, SpeaksNothingOlderThan12) {
  StartTls({});
  EXPECT_FALSE(TlsClient(server_->port(), cert_, TLS1_1_VERSION).connected());
  TlsClient client(server_->port(), cert_, TLS1_2_VERSION);
  ASSERT_TRUE(client.connected());
  EXPECT_EQ(client.version(), "TLSv1.2");
  EXPECT_EQ(client.Call("GET", "/x")->status, 200);
}

TEST_F(TlsTest, AGoodbyeCancelsTheWork) {
  StartTls({});
  const auto client = Connect();
  ASSERT_TRUE(client->SendRequest("GET", "/hold"));
  ASSERT_TRUE(client->ReceiveHead().has_value());
  client->SayGoodbye();
  EXPECT_TRUE(handler_.cancelled.WaitForNotificationWithTimeout(kLong));
}

TEST_F(TlsTest, ABrokenConnectionCancelsTheWork) {
  StartTls({});
  const auto client = Connect();
  ASSERT_TRUE(client->SendRequest("GET", "/hold"));
  ASSERT_TRUE(client->ReceiveHead().has_value());
  client->Close();
  EXPECT_TRUE(handler_.cancelled.WaitForNotificationWithTimeout(kLong));
}

TEST_F(TlsTest, AResetCancelsTheWork) {
  StartTls({});
  const auto client = Connect();
  ASSERT_TRUE(client->SendRequest("GET", "/hold"));
  ASSERT_TRUE(client->ReceiveHead().has_value());
  client->Reset();
  EXPECT_TRUE(handler_.cancelled.WaitForNotificationWithTimeout(kLong));
}

TEST_F(TlsTest, ARefusedClientGetsToReadWhy) {
  StartTls({.max_body_bytes = 1 << 20});
  const auto client = Connect();
  const auto response = client->Call("POST", "/big", std::string(9 << 20, 'x'));
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->status, 413);
}

TEST_F(TlsTest, AClientWithoutTlsIsDisconnected) {
  StartTls({});
  TestClient plain(server_->port());
  plain.Send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
  EXPECT_FALSE(plain.Receive().has_value());
  EXPECT_EQ(Connect()->Call("GET", "/x")->status, 200);
}

TEST_F(TlsTest, ASlowHandshakeIsDisconnected) {
  StartTls({.idle_timeout = kLong, .header_timeout = absl::Milliseconds(100)});
  TestClient silent(server_->port());
  EXPECT_TRUE(silent.ReceiveEnd());
  TestClient half(server_->port());
  // The head of a record that never comes.
  half.Send(std::string("\x16\x03\x01\x02\x00\x01", 6));
  EXPECT_EQ(half.ReceiveRest(), "");
  EXPECT_EQ(Connect()->Call("GET", "/x")->status, 200);
}

TEST_F(TlsTest, AClientThatDoesNotReadLosesItsResponse) {
  StartTls({.write_timeout = absl::Milliseconds(200)});
  const auto client = Connect();
  ASSERT_TRUE(client->SendRequest("GET", "/large"));
  EXPECT_TRUE(handler_.ended.WaitForNotificationWithTimeout(kLong));
  EXPECT_FALSE(client->Receive().has_value());
}

TEST_F(TlsTest, StopEndsIdleAndRunningConnections) {
  StartTls({});
  const auto streaming = Connect();
  ASSERT_TRUE(streaming->SendRequest("GET", "/hold"));
  ASSERT_TRUE(streaming->ReceiveHead().has_value());
  const auto idle = Connect();
  ASSERT_TRUE(idle->Call("GET", "/x").has_value());
  TestClient handshaking(server_->port());
  server_->Stop(absl::Milliseconds(50));
  EXPECT_TRUE(handler_.cancelled.HasBeenNotified());
  EXPECT_TRUE(idle->ReceiveEnd());
  EXPECT_EQ(server_->connections(), 0u);
}

std::string ErrorOf(const std::string& cert, const std::string& key, TestHandler* handler) {
  const auto server = Server::Listen(
      {.listen = "127.0.0.1:0", .tls_cert_file = cert, .tls_key_file = key}, handler);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(server.status().message());
}

TEST_F(TlsTest, SaysWhichFileIsWrong) {
  const std::string other = testing::TempDir() + "/other";
  WriteTestCertificate(other + ".cert", other + ".key");
  WriteTestCertificate(other + ".cert2", other + ".locked", "secret");
  std::ofstream(other + ".text") << "not PEM\n";

  EXPECT_EQ(ErrorOf(cert_, "", &handler_),
            "the TLS key file is not given: TLS needs a certificate and its key");
  EXPECT_EQ(ErrorOf("", key_, &handler_),
            "the TLS certificate file is not given: TLS needs a certificate and its key");
  EXPECT_EQ(ErrorOf(other + ".none", key_, &handler_),
            absl::StrCat("the TLS certificate file ", other, ".none cannot be read, or is empty"));
  const std::string not_pem = ErrorOf(other + ".text", key_, &handler_);
  EXPECT_EQ(not_pem.find(absl::StrCat("the TLS certificate file ", other, ".text cannot be used")),
            0u)
      << not_pem;
  for (const char* const bad : {".text", ".key", ".locked", ".cert"}) {
    const std::string error = ErrorOf(cert_, other + bad, &handler_);
    EXPECT_EQ(error.find(absl::StrCat("the TLS key file ", other, bad, " cannot be used: ")), 0u)
        << error;
  }
}

}  // namespace
}  // namespace tessera::http
