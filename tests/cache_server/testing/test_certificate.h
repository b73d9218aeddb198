// Certificates for tests of TLS, made on the spot.
#ifndef TESSERA_TESTS_CACHE_SERVER_TESTING_TEST_CERTIFICATE_H_
#define TESSERA_TESTS_CACHE_SERVER_TESTING_TEST_CERTIFICATE_H_

#include <string>

namespace tessera::testing {

struct TestCertificate {
  std::string cert_pem;
  std::string key_pem;
};

// Signed by itself, for the host "localhost", good for an hour: who trusts it trusts whoever has
// its key.
TestCertificate MakeTestCertificate();

// Writes `text` to a new file of this test, and returns its path.
std::string WriteTestFile(const std::string& name, const std::string& text);

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TESTING_TEST_CERTIFICATE_H_
