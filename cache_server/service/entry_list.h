// One page of what a store holds.
#ifndef TESSERA_CACHE_SERVER_SERVICE_ENTRY_LIST_H_
#define TESSERA_CACHE_SERVER_SERVICE_ENTRY_LIST_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cache_server/store/chunk_store.h"
#include "proto/kv_cache.pb.h"

namespace tessera {

// As KvCache.List says. A page token names the last entry of its page (order, its rank, its key), so
// that entries which come and go in between neither hide nor repeat others.
// INVALID_ARGUMENT: a page token that this order did not make, a page size above 1000, a tenant of
// the wrong length.
absl::Status ListEntries(const ChunkStore& store, const cache::v1::ListRequest& request,
                         absl::Time now, cache::v1::ListResponse* response);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_ENTRY_LIST_H_
