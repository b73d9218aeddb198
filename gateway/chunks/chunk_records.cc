#include "gateway/chunks/chunk_records.h"

#include <openssl/sha.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

using chunks::v1::ChunkRecord;

constexpr std::string_view kIdPrefix = "chunk-";
constexpr size_t kKeyBytes = 32;
constexpr size_t kTenantBytes = 16;
// Bytes of records that one Fetch asks for: texts that only their lengths are shown of.
constexpr uint64_t kFetchBytes = uint64_t{8} << 20;
// Pages that PinOf looks through.
constexpr uint32_t kPinPage = 1000;
constexpr int kPinPages = 4;

std::string Sha256(std::string_view mark, std::string_view bytes) {
  const std::string text = std::string(mark).append(bytes);
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

// The record in a value, if it is sound and of that tenant.
std::optional<ChunkRecord> ParseRecord(const std::optional<std::string>& value,
                                       const std::string& tenant) {
  ChunkRecord record;
  if (!value || !record.ParseFromString(*value)) return std::nullopt;
  if (record.chunk_key().size() != kKeyBytes || record.tenant() != tenant) return std::nullopt;
  return record;
}

bool SamePieces(const ChunkRecord& a, const ChunkRecord& b) {
  return a.tokens() == b.tokens() && a.bytes() == b.bytes() &&
         a.segment_text() == b.segment_text() &&
         std::equal(a.piece_keys().begin(), a.piece_keys().end(), b.piece_keys().begin(),
                    b.piece_keys().end());
}

}  // namespace

std::string ChunkId(std::string_view chunk_key) {
  return absl::StrCat(
      absl::string_view(kIdPrefix.data(), kIdPrefix.size()),
      absl::BytesToHexString(absl::string_view(chunk_key.data(), chunk_key.size())));
}

absl::StatusOr<std::string> ParseChunkId(std::string_view id) {
  const std::string_view digits = id.substr(std::min(id.size(), kIdPrefix.size()));
  const bool sound = id.substr(0, kIdPrefix.size()) == kIdPrefix &&
                     digits.size() == 2 * kKeyBytes &&
                     std::all_of(digits.begin(), digits.end(), [](char c) {
                       return absl::ascii_isxdigit(static_cast<unsigned char>(c)) &&
                              !absl::ascii_isupper(static_cast<unsigned char>(c));
                     });
  if (!sound) {
    return absl::InvalidArgumentError(
        "not the id of a chunk: it is 'chunk-' and 64 lower-case hexadecimal digits, as POST "
        "/v1/chunks gives them");
  }
  return absl::HexStringToBytes(absl::string_view(digits.data(), digits.size()));
}

std::string RecordKey(std::string_view chunk_key) {
  return Sha256("tessera chunk record 1", chunk_key);
}

std::string RecordTenant(std::string_view salt) {
  return Sha256("tessera chunk records 1", salt).substr(0, kTenantBytes);
}

CacheCalls::Keys KeysOf(const ChunkRecord& record) {
  CacheCalls::Keys keys(record.piece_keys().begin(), record.piece_keys().end());
  keys.push_back(RecordKey(record.chunk_key()));
  return keys;
}

absl::StatusOr<absl::Time> PinKeys(CacheCalls& calls, const CacheCalls::Keys& keys,
                                   absl::Duration ttl) {
  const absl::Time until = absl::Now() + ttl;
  ASSIGN_OR_RETURN(const cache::v1::PinResponse counts, calls.Pin(keys, ttl));
  if (counts.pinned() == keys.size()) return until;
  // A part of a chunk is of no use, and pins are scarce. They end by themselves, so a failure to
  // take them back is none.
  calls.Unpin(keys).IgnoreError();
  if (counts.missing() > 0) {
    return absl::NotFoundError(
        absl::StrCat(counts.missing(), " of the chunk's ", keys.size(),
                     " parts had to make room: send its text to POST /v1/chunks again"));
  }
  return absl::ResourceExhaustedError(
      "the cache server has no room for more pinned chunks: unpin some first");
}

absl::Status ChunkRecords::Put(std::string_view salt, ChunkRecord* record) {
  const std::string tenant = RecordTenant(salt);
  record->set_tenant(tenant);
  const std::string key = RecordKey(record->chunk_key());
  const std::string value = record->SerializeAsString();
  if (value.size() > CacheCalls::kMaxValueBytes) {
    return absl::InvalidArgumentError("the text is too long to be kept: cut it into several");
  }
  ASSIGN_OR_RETURN(const bool stored, calls_.Store(key, tenant, value));
  if (stored) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto values, calls_.Fetch({key}));
  std::optional<ChunkRecord> old = ParseRecord(values[0], tenant);
  if (old && SamePieces(*old, *record)) {
    *record = *std::move(old);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(calls_.Delete({key}).status());
  return calls_.Store(key, tenant, value).status();
}

absl::StatusOr<ChunkRecord> ChunkRecords::Get(std::string_view chunk_key, std::string_view salt) {
  ASSIGN_OR_RETURN(const auto values, calls_.Fetch({RecordKey(chunk_key)}));
  std::optional<ChunkRecord> record = ParseRecord(values[0], RecordTenant(salt));
  if (record && record->chunk_key() == chunk_key) return *std::move(record);
  return absl::NotFoundError(
      "there is no such chunk under this cache_salt: it was never stored, was deleted, or had to "
      "make room. Send its text to POST /v1/chunks again");
}

absl::StatusOr<std::optional<absl::Duration>> ChunkRecords::PinOf(std::string_view chunk_key,
                                                                  std::string_view salt) {
  const std::string key = RecordKey(chunk_key);
  const std::string tenant = RecordTenant(salt);
  std::string token;
  for (int page = 0; page < kPinPages; ++page) {
    ASSIGN_OR_RETURN(const cache::v1::ListResponse listed, calls_.List(tenant, kPinPage, token));
    for (const cache::v1::Entry& entry : listed.entries()) {
      if (entry.key() == key) return absl::Milliseconds(entry.pinned_ms());
    }
    token = listed.next_page_token();
    if (token.empty()) break;
  }
  return std::nullopt;
}

absl::StatusOr<RecordPage> ChunkRecords::List(std::string_view salt, uint32_t size,
                                              const std::string& token) {
  const std::string tenant = RecordTenant(salt);
  ASSIGN_OR_RETURN(const cache::v1::ListResponse listed, calls_.List(tenant, size, token));
  RecordPage page;
  page.next_token = listed.next_page_token();
  CacheCalls::Keys keys;
  uint64_t bytes = 0;
  for (int i = 0; i < listed.entries_size(); ++i) {
    keys.push_back(listed.entries(i).key());
    bytes += listed.entries(i).slice_bytes();
    if (bytes < kFetchBytes && i + 1 < listed.entries_size()) continue;
    ASSIGN_OR_RETURN(const auto values, calls_.Fetch(keys));
    const int first = i + 1 - static_cast<int>(keys.size());
    for (size_t j = 0; j < values.size(); ++j) {
      std::optional<ChunkRecord> record = ParseRecord(values[j], tenant);
      if (!record) continue;
      // A page of the longest texts would be more than a gateway wants to hold.
      record->clear_text();
      record->clear_segment_text();
      const int64_t pinned_ms = listed.entries(first + static_cast<int>(j)).pinned_ms();
      page.records.push_back({*std::move(record), absl::Milliseconds(pinned_ms)});
    }
    keys.clear();
    bytes = 0;
  }
  return page;
}

}  // namespace tessera
