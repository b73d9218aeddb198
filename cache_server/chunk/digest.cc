#include "cache_server/chunk/digest.h"

#include <openssl/evp.h>

#include <bit>

#include "glog/logging.h"

namespace tessera {

// The bytes of numbers are hashed as they lie in memory.
static_assert(std::endian::native == std::endian::little);

struct Digest::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Digest::Digest() : state_(std::make_unique<State>()) {
  CHECK_EQ(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr), 1);
}

Digest::~Digest() = default;

void Digest::Update(const void* bytes, size_t size) {
  CHECK_EQ(EVP_DigestUpdate(state_->context, bytes, size), 1);
}

Digest& Digest::Part(std::string_view bytes) {
  const uint64_t size = bytes.size();
  Update(&size, sizeof(size));
  Update(bytes.data(), bytes.size());
  return *this;
}

Digest& Digest::Part(absl::Span<const uint32_t> numbers) {
  return Part(std::string_view(reinterpret_cast<const char*>(numbers.data()),
                               numbers.size() * sizeof(uint32_t)));
}

Digest& Digest::Number(uint32_t number) {
  Update(&number, sizeof(number));
  return *this;
}

ChunkKey Digest::Finish() {
  ChunkKey key;
  unsigned int size = 0;
  CHECK_EQ(EVP_DigestFinal_ex(state_->context, key.bytes.data(), &size), 1);
  CHECK_EQ(size, key.bytes.size());
  return key;
}

}  // namespace tessera
