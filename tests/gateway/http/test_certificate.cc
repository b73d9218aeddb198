#include "tests/gateway/http/test_certificate.h"

#include <cstdio>

#include "glog/logging.h"
#include "openssl/ec.h"
#include "openssl/evp.h"
#include "openssl/pem.h"
#include "openssl/x509.h"

namespace tessera {
namespace {

constexpr long kSecondsADay = 24 * 60 * 60;

void SignSelf(X509* cert, EVP_PKEY* key) {
  X509_set_version(cert, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
  X509_gmtime_adj(X509_getm_notBefore(cert), -kSecondsADay);
  X509_gmtime_adj(X509_getm_notAfter(cert), kSecondsADay);
  X509_set_pubkey(cert, key);
  X509_NAME* const name = X509_get_subject_name(cert);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(cert, name);
  CHECK_GT(X509_sign(cert, key, EVP_sha256()), 0);
}

}  // namespace

void WriteTestCertificate(const std::string& cert_file, const std::string& key_file,
                          const std::string& passphrase) {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const cert = X509_new();
  CHECK(key != nullptr && cert != nullptr);
  SignSelf(cert, key);

  std::FILE* file = std::fopen(cert_file.c_str(), "w");
  PCHECK(file != nullptr);
  CHECK_EQ(PEM_write_X509(file, cert), 1);
  std::fclose(file);
  file = std::fopen(key_file.c_str(), "w");
  PCHECK(file != nullptr);
  const bool encrypted = !passphrase.empty();
  CHECK_EQ(PEM_write_PKCS8PrivateKey(file, key, encrypted ? EVP_aes_128_cbc() : nullptr,
                                     encrypted ? passphrase.data() : nullptr,
                                     static_cast<int>(passphrase.size()), nullptr, nullptr),
           1);
  std::fclose(file);
  X509_free(cert);
  EVP_PKEY_free(key);
}

}  // namespace tessera
