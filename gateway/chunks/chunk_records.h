// Records of chunks in the cache server: proto/chunk_record.proto says how they lie there.
#ifndef TESSERA_GATEWAY_CHUNKS_CHUNK_RECORDS_H_
#define TESSERA_GATEWAY_CHUNKS_CHUNK_RECORDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/chunks/cache_calls.h"
#include "proto/chunk_record.pb.h"

namespace tessera {

// "chunk-" and the 64 hexadecimal digits of a chunk key.
std::string ChunkId(std::string_view chunk_key);
// The key in an id. INVALID_ARGUMENT: it is none.
absl::StatusOr<std::string> ParseChunkId(std::string_view id);

// See proto/chunk_record.proto.
std::string RecordKey(std::string_view chunk_key);
std::string RecordTenant(std::string_view salt);

// Keys of all that is stored of a chunk: its pieces, then its record.
CacheCalls::Keys KeysOf(const chunks::v1::ChunkRecord& record);

// Pins all of the keys or none; returns until when. NOT_FOUND: some are not there;
// RESOURCE_EXHAUSTED: no room for more pins; and those of CacheCalls.
absl::StatusOr<absl::Time> PinKeys(CacheCalls& calls, const CacheCalls::Keys& keys,
                                   absl::Duration ttl);

// A record, and how long it is still pinned; nothing when that is not known.
struct FoundRecord {
  chunks::v1::ChunkRecord record;
  std::optional<absl::Duration> pinned;
};

struct RecordPage {
  // Records only; entries that were damaged, or went while they were read, are left out.
  std::vector<FoundRecord> records;
  // For the next page; empty on the last.
  std::string next_token;
};

// Errors of all are those of CacheCalls. Thread-safe, as CacheCalls; waits for it.
class ChunkRecords {
 public:
  // `calls` must outlive it.
  explicit ChunkRecords(CacheCalls* calls) : calls_(*calls) {}

  // Stores a record of that salt. One that is there already and names the same pieces stays: then
  // *record becomes that. One that is damaged or names others is replaced.
  absl::Status Put(std::string_view salt, chunks::v1::ChunkRecord* record);

  // The record of a chunk. NOT_FOUND: never stored under this salt, deleted, evicted or damaged.
  absl::StatusOr<chunks::v1::ChunkRecord> Get(std::string_view chunk_key, std::string_view salt);

  // How long its pin still lasts. Looks through the salt's records, the first few thousand; nothing
  // when it is not among them.
  absl::StatusOr<std::optional<absl::Duration>> PinOf(std::string_view chunk_key,
                                                      std::string_view salt);

  // Records of one salt, oldest first. INVALID_ARGUMENT: `token` is none.
  absl::StatusOr<RecordPage> List(std::string_view salt, uint32_t size, const std::string& token);

 private:
  CacheCalls& calls_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_CHUNKS_CHUNK_RECORDS_H_
