#include "cache_server/chunk/key.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "cache_server/chunk/digest.h"

namespace tessera {

std::string ChunkKey::ToHex() const {
  const std::string_view raw = AsBytes();
  return absl::BytesToHexString({raw.data(), raw.size()});
}

absl::StatusOr<ChunkKey> ChunkKey::FromBytes(std::string_view raw) {
  ChunkKey key;
  if (raw.size() != key.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a key has ", key.bytes.size(), " bytes, not ", raw.size()));
  }
  std::copy(raw.begin(), raw.end(), key.bytes.begin());
  return key;
}

ChunkKey MakeChunkKey(const ChunkKey& fingerprint, std::string_view salt,
                      absl::Span<const uint32_t> sink, absl::Span<const uint32_t> tokens) {
  Digest digest;
  digest.Part(fingerprint.AsBytes()).Part(salt).Part(sink).Part(tokens);
  return digest.Finish();
}

ChunkKey MakePieceKey(const ChunkKey& chunk, uint32_t tokens_per_piece, uint32_t index) {
  Digest digest;
  digest.Part(chunk.AsBytes()).Number(tokens_per_piece).Number(index);
  return digest.Finish();
}

ChunkKey MakeBlockKey(const ChunkKey& parent, absl::Span<const uint32_t> tokens) {
  Digest digest;
  digest.Part(parent.AsBytes()).Part(tokens);
  return digest.Finish();
}

ChunkKey MakePrefixRoot(const ChunkKey& fingerprint, std::string_view salt) {
  Digest digest;
  digest.Part("tessera prefix root").Part(fingerprint.AsBytes()).Part(salt);
  return digest.Finish();
}

std::string Tenant::ToHex() const {
  const std::string_view raw = AsBytes();
  return absl::BytesToHexString({raw.data(), raw.size()});
}

absl::StatusOr<Tenant> Tenant::FromBytes(std::string_view raw) {
  Tenant tenant;
  if (raw.empty()) return tenant;
  if (raw.size() != tenant.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a tenant has 0 or ", tenant.bytes.size(), " bytes, not ", raw.size()));
  }
  std::copy(raw.begin(), raw.end(), tenant.bytes.begin());
  return tenant;
}

Tenant MakeTenant(std::string_view salt) {
  Tenant tenant;
  if (salt.empty()) return tenant;
  Digest digest;
  digest.Part("tessera tenant").Part(salt);
  const ChunkKey hash = digest.Finish();
  std::copy_n(hash.bytes.begin(), tenant.bytes.size(), tenant.bytes.begin());
  return tenant;
}

}  // namespace tessera
