// The calls of proto/kv_cache.proto that look after entries: pin, list, delete, flush and the like.
// No gRPC here.
#ifndef TESSERA_CACHE_SERVER_SERVICE_LIFE_CYCLE_H_
#define TESSERA_CACHE_SERVER_SERVICE_LIFE_CYCLE_H_

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache_server/chunk/key.h"
#include "cache_server/store/chunk_store.h"
#include "google/protobuf/repeated_field.h"
#include "proto/kv_cache.pb.h"

namespace tessera {

// Keys of a call. INVALID_ARGUMENT: one is not 32 bytes, or there are more than `most`.
absl::StatusOr<std::vector<ChunkKey>> ParseKeys(
    const google::protobuf::RepeatedPtrField<std::string>& raw_keys, size_t most);

// Thread-safe. Calls may wait for a disk; each says in proto/kv_cache.proto what it does.
class LifeCycle {
 public:
  LifeCycle(ChunkStore* store, size_t max_keys_per_call)
      : store_(*store), max_keys_(max_keys_per_call) {}

  absl::Status Pin(const cache::v1::PinRequest& request, cache::v1::PinResponse* response);
  absl::Status Unpin(const cache::v1::UnpinRequest& request, cache::v1::UnpinResponse* response);
  absl::Status Prefetch(const cache::v1::PrefetchRequest& request,
                        cache::v1::PrefetchResponse* response);
  absl::Status List(const cache::v1::ListRequest& request, cache::v1::ListResponse* response);
  absl::Status Delete(const cache::v1::DeleteRequest& request,
                      cache::v1::DeleteResponse* response);
  absl::Status Clear(const cache::v1::ClearRequest& request, cache::v1::ClearResponse* response);
  absl::Status Flush(const cache::v1::FlushRequest& request, cache::v1::FlushResponse* response);

 private:
  ChunkStore& store_;
  const size_t max_keys_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_LIFE_CYCLE_H_
