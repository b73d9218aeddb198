#include "gateway/chunks/chunk_json.h"

#include <algorithm>
#include <string>

#include "absl/time/clock.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

uint32_t PowerOfTwoFrom(uint64_t least) {
  uint32_t power = 1;
  while (power < least) power *= 2;
  return power;
}

}  // namespace

json::value TitleOrNull(std::string_view title) {
  if (title.empty()) return nullptr;
  return json::value(json::string_view(title.data(), title.size()));
}

json::value PinnedUntilOrNull(absl::Time until) {
  if (until <= absl::Now()) return nullptr;
  return absl::ToUnixSeconds(until);
}

uint32_t CachedTokens(const chunks::v1::ChunkRecord& record,
                      const absl::flat_hash_set<std::string>& missing) {
  const auto pieces = static_cast<uint64_t>(record.piece_keys_size());
  uint64_t present = 0;
  while (present < pieces && !missing.contains(record.piece_keys(static_cast<int>(present)))) {
    ++present;
  }
  if (present == pieces) return record.tokens();
  // All pieces but the last are full, so a piece has at least this share of the tokens, and less
  // than twice as much.
  const uint64_t share = (record.tokens() + pieces - 1) / pieces;
  const uint64_t cached = present * PowerOfTwoFrom(share);
  return static_cast<uint32_t>(std::min<uint64_t>(cached, record.tokens()));
}

json::object ChunkObject(const FoundRecord& found,
                         const absl::flat_hash_set<std::string>& missing) {
  const chunks::v1::ChunkRecord& record = found.record;
  const auto present =
      std::count_if(record.piece_keys().begin(), record.piece_keys().end(),
                    [&](const std::string& key) { return !missing.contains(key); });
  json::object object;
  object["id"] = ChunkId(record.chunk_key());
  object["object"] = "chunk";
  object["title"] = TitleOrNull(record.title());
  object["tokens"] = record.tokens();
  object["bytes"] = record.bytes();
  object["cached_tokens"] = CachedTokens(record, missing);
  object["pieces"] = {{"total", record.piece_keys_size()}, {"present", present}};
  if (found.pinned) object["pinned_until"] = PinnedUntilOrNull(absl::Now() + *found.pinned);
  object["created"] = record.created();
  object["model"] = record.model();
  return object;
}

}  // namespace tessera::openai
