// A certificate for tests, made when asked for.
#ifndef TESSERA_TESTS_GATEWAY_HTTP_TEST_CERTIFICATE_H_
#define TESSERA_TESTS_GATEWAY_HTTP_TEST_CERTIFICATE_H_

#include <string>

namespace tessera {

// Writes a self-signed certificate for localhost and its key as PEM files. With a passphrase the
// key is encrypted.
void WriteTestCertificate(const std::string& cert_file, const std::string& key_file,
                          const std::string& passphrase = "");

}  // namespace tessera

#endif  // TESSERA_TESTS_GATEWAY_HTTP_TEST_CERTIFICATE_H_
