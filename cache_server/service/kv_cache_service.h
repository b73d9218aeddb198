// The four RPCs of proto/kv_cache.proto. Includes gRPC: only for service/'s .cc files.
#ifndef TESSERA_CACHE_SERVER_SERVICE_KV_CACHE_SERVICE_H_
#define TESSERA_CACHE_SERVER_SERVICE_KV_CACHE_SERVICE_H_

#include <string>

#include "cache_server/service/server.h"
#include "cache_server/service/stream_watch.h"
#include "cache_server/store/chunk_store.h"
#include "proto/kv_cache.grpc.pb.h"

namespace tessera {

// Fetch and Store are raw: their bytes do not pass through protobuf messages.
using KvCacheBase = cache::v1::KvCache::WithCallbackMethod_GetCapabilities<
    cache::v1::KvCache::WithCallbackMethod_FindMissing<
        cache::v1::KvCache::WithRawCallbackMethod_Fetch<
            cache::v1::KvCache::WithRawCallbackMethod_Store<cache::v1::KvCache::Service>>>>;

// Thread-safe. Must outlive the gRPC server that it is registered with.
class KvCacheService : public KvCacheBase {
 public:
  KvCacheService(const ServerOptions& options, ChunkStore* store);

  grpc::ServerUnaryReactor* GetCapabilities(grpc::CallbackServerContext* context,
                                            const cache::v1::GetCapabilitiesRequest* request,
                                            cache::v1::GetCapabilitiesResponse* response) override;
  grpc::ServerUnaryReactor* FindMissing(grpc::CallbackServerContext* context,
                                        const cache::v1::FindMissingRequest* request,
                                        cache::v1::FindMissingResponse* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Fetch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* Store(grpc::CallbackServerContext* context,
                                                   grpc::ByteBuffer* response) override;

  size_t open_fetches() const { return fetches_.size(); }
  size_t open_stores() const { return stores_.size(); }

 private:
  const ServerOptions options_;
  ChunkStore* const store_;
  const std::string instance_id_;
  StreamWatch fetches_;
  StreamWatch stores_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_KV_CACHE_SERVICE_H_
