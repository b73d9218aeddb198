#include "cache_server/service/life_cycle.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/service/entry_list.h"

namespace tessera {

absl::StatusOr<std::vector<ChunkKey>> ParseKeys(
    const google::protobuf::RepeatedPtrField<std::string>& raw_keys, size_t most) {
  if (static_cast<size_t>(raw_keys.size()) > most) {
    return absl::InvalidArgumentError(absl::StrCat(raw_keys.size(), " keys in one call; at most ",
                                                   most, " are accepted: split the call"));
  }
  std::vector<ChunkKey> keys;
  keys.reserve(raw_keys.size());
  for (const std::string& raw : raw_keys) {
    ASSIGN_OR_RETURN(const ChunkKey key, ChunkKey::FromBytes(raw));
    keys.push_back(key);
  }
  return keys;
}

absl::Status LifeCycle::Pin(const cache::v1::PinRequest& request,
                            cache::v1::PinResponse* response) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, ParseKeys(request.keys(), max_keys_));
  // More than a century is refused by the table as well, and cannot overflow on the way.
  const absl::Duration ttl =
      absl::Milliseconds(std::min<uint64_t>(request.ttl_ms(), uint64_t{1} << 42));
  RETURN_IF_ERROR(store_.pins().CheckTtl(ttl));
  for (const ChunkKey& key : keys) {
    const absl::Status status = store_.Pin(key, ttl);
    if (status.ok()) {
      response->set_pinned(response->pinned() + 1);
    } else if (absl::IsNotFound(status)) {
      response->set_missing(response->missing() + 1);
    } else {
      response->set_refused(response->refused() + 1);
    }
  }
  return absl::OkStatus();
}

absl::Status LifeCycle::Unpin(const cache::v1::UnpinRequest& request,
                              cache::v1::UnpinResponse* response) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, ParseKeys(request.keys(), max_keys_));
  uint32_t unpinned = 0;
  for (const ChunkKey& key : keys) unpinned += store_.Unpin(key) ? 1 : 0;
  response->set_unpinned(unpinned);
  return absl::OkStatus();
}

absl::Status LifeCycle::Prefetch(const cache::v1::PrefetchRequest& request,
                                 cache::v1::PrefetchResponse* response) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, ParseKeys(request.keys(), max_keys_));
  std::vector<ChunkKey> lower;
  uint32_t missing = 0;
  for (const ChunkKey& key : keys) {
    const std::optional<FoundPlace> place = store_.Find(key);
    if (!place) {
      ++missing;
    } else if (place->tier_index > 0) {
      lower.push_back(key);
    }
  }
  response->set_present(keys.size() - missing - lower.size());
  std::atomic<uint32_t> loaded = 0;
  absl::BlockingCounter left(static_cast<int>(lower.size()));
  for (const ChunkKey& key : lower) {
    store_.Load(key, [&loaded, &left](const absl::StatusOr<FoundPiece>& found) {
      if (found.ok()) ++loaded;
      left.DecrementCount();
    });
  }
  left.Wait();
  response->set_loaded(loaded);
  response->set_missing(missing + lower.size() - loaded);
  return absl::OkStatus();
}

absl::Status LifeCycle::List(const cache::v1::ListRequest& request,
                             cache::v1::ListResponse* response) {
  return ListEntries(store_, request, absl::Now(), response);
}

absl::Status LifeCycle::Delete(const cache::v1::DeleteRequest& request,
                               cache::v1::DeleteResponse* response) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, ParseKeys(request.keys(), max_keys_));
  uint32_t deleted = 0;
  for (const ChunkKey& key : keys) deleted += store_.Erase(key) ? 1 : 0;
  response->set_deleted(deleted);
  return absl::OkStatus();
}

absl::Status LifeCycle::Clear(const cache::v1::ClearRequest& request,
                              cache::v1::ClearResponse* response) {
  ASSIGN_OR_RETURN(const Tenant tenant, Tenant::FromBytes(request.tenant()));
  absl::flat_hash_set<ChunkKey> keys;
  for (const auto& tier : store_.tiers()) {
    for (const TierEntry& entry : tier->List()) {
      if (request.tenant().empty() || entry.tenant == tenant) keys.insert(entry.key);
    }
  }
  uint64_t deleted = 0;
  for (const ChunkKey& key : keys) deleted += store_.Erase(key) ? 1 : 0;
  response->set_deleted(deleted);
  return absl::OkStatus();
}

absl::Status LifeCycle::Flush(const cache::v1::FlushRequest& request,
                              cache::v1::FlushResponse* response) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, ParseKeys(request.keys(), max_keys_));
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> not_durable, store_.Flush(keys));
  for (const ChunkKey& key : not_durable) {
    response->add_not_durable_keys(std::string(key.AsBytes()));
  }
  return absl::OkStatus();
}

}  // namespace tessera
