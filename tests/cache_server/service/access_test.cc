// Who may call: TLS, mTLS and the token.
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_certificate.h"
#include "tests/cache_server/testing/two_tier_server.h"

namespace tessera::testing {
namespace {

using Stub = cache::v1::KvCache::Stub;

class AccessTest : public TwoTierServer {
 protected:
  void UseTls(const TestCertificate& server) {
    options_.tls_cert_file = WriteTestFile("server.crt", server.cert_pem);
    options_.tls_key_file = WriteTestFile("server.key", server.key_pem);
  }
  static std::shared_ptr<grpc::ChannelCredentials> Tls(const std::string& trusted,
                                                       const TestCertificate& own = {}) {
    return grpc::SslCredentials({trusted, own.key_pem, own.cert_pem});
  }
  static grpc::StatusCode CodeOf(Stub* stub, const std::string& authorization = "") {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(20)));
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    cache::v1::StatsResponse response;
    return stub->Stats(&context, {}, &response).error_code();
  }
};

TEST_F(AccessTest, Tls) {
  const TestCertificate certificate = MakeTestCertificate();
  UseTls(certificate);
  Start();
  EXPECT_EQ(CodeOf(MakeStub(Tls(certificate.cert_pem)).get()), grpc::StatusCode::OK);
  EXPECT_EQ(CodeOf(stub_.get()), grpc::StatusCode::UNAVAILABLE) << "in plain text";
  EXPECT_EQ(CodeOf(MakeStub(Tls(MakeTestCertificate().cert_pem)).get()),
            grpc::StatusCode::UNAVAILABLE)
      << "a client that trusts somebody else";
}

TEST_F(AccessTest, MutualTls) {
  const TestCertificate server = MakeTestCertificate();
  const TestCertificate client = MakeTestCertificate();
  UseTls(server);
  options_.tls_client_ca_file = WriteTestFile("clients.crt", client.cert_pem);
  Start();
  EXPECT_EQ(CodeOf(MakeStub(Tls(server.cert_pem, client)).get()), grpc::StatusCode::OK);
  EXPECT_EQ(CodeOf(MakeStub(Tls(server.cert_pem)).get()), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(CodeOf(MakeStub(Tls(server.cert_pem, MakeTestCertificate())).get()),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(AccessTest, FilesAreChecked) {
  KeyEvents events;
  Start();
  const ServerParts parts = {.store = store_.get(), .counters = &counters_};
  ServerOptions no_key = options_;
  no_key.tls_cert_file = WriteTestFile("only.crt", MakeTestCertificate().cert_pem);
  ServerOptions no_cert = options_;
  no_cert.tls_client_ca_file = no_key.tls_cert_file;
  ServerOptions no_file = options_;
  no_file.tls_cert_file = no_file.tls_key_file = "/does/not/exist";
  for (const ServerOptions& bad : {no_key, no_cert, no_file}) {
    EXPECT_EQ(CacheServer::Start(bad, parts).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(AccessTest, EveryCallWantsTheToken) {
  options_.token = "a long secret";
  Start();
  EXPECT_EQ(CodeOf(stub_.get(), "Bearer a long secret"), grpc::StatusCode::OK);
  for (const std::string wrong : {"", "Bearer a long secreT", "Bearer a long secret2", "a long secret",
                                  "Basic a long secret"}) {
    EXPECT_EQ(CodeOf(stub_.get(), wrong), grpc::StatusCode::UNAUTHENTICATED) << wrong;
  }
  cache::v1::PinResponse pinned;
  EXPECT_EQ(Call(&Stub::Pin, cache::v1::PinRequest(), &pinned).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  cache::v1::FindMissingResponse missing;
  EXPECT_EQ(Call(&Stub::FindMissing, cache::v1::FindMissingRequest(), &missing).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  grpc::ClientContext fetch_context, store_context, watch_context;
  EXPECT_EQ(stub_->Fetch(&fetch_context, {})->Finish().error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  cache::v1::StoreResponse stored;
  EXPECT_EQ(stub_->Store(&store_context, &stored)->Finish().error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(stub_->Watch(&watch_context, {})->Finish().error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_GE(counters_.unauthenticated, 10u);
}

}  // namespace
}  // namespace tessera::testing
