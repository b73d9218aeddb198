// The RPCs of proto/kv_cache.proto. Includes gRPC: only for service/'s .cc files.
#ifndef TESSERA_CACHE_SERVER_SERVICE_KV_CACHE_SERVICE_H_
#define TESSERA_CACHE_SERVER_SERVICE_KV_CACHE_SERVICE_H_

#include <atomic>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "base/thread_pool.h"
#include "cache_server/service/life_cycle.h"
#include "cache_server/service/server.h"
#include "cache_server/service/stream_watch.h"
#include "proto/kv_cache.grpc.pb.h"

namespace tessera {

// Fetch and Store are raw: their bytes do not pass through protobuf messages.
template <typename Base>
using Unary = cache::v1::KvCache::WithCallbackMethod_GetCapabilities<
    cache::v1::KvCache::WithCallbackMethod_FindMissing<
        cache::v1::KvCache::WithCallbackMethod_Pin<cache::v1::KvCache::WithCallbackMethod_Unpin<
            cache::v1::KvCache::WithCallbackMethod_Prefetch<
                cache::v1::KvCache::WithCallbackMethod_List<
                    cache::v1::KvCache::WithCallbackMethod_Delete<
                        cache::v1::KvCache::WithCallbackMethod_Clear<
                            cache::v1::KvCache::WithCallbackMethod_Flush<
                                cache::v1::KvCache::WithCallbackMethod_Stats<
                                    cache::v1::KvCache::WithCallbackMethod_Drain<Base>>>>>>>>>>>;
using KvCacheBase =
    Unary<cache::v1::KvCache::WithCallbackMethod_Watch<cache::v1::KvCache::WithRawCallbackMethod_Fetch<
        cache::v1::KvCache::WithRawCallbackMethod_Store<cache::v1::KvCache::Service>>>>;

// Thread-safe. Must outlive the gRPC server that it is registered with.
class KvCacheService : public KvCacheBase {
 public:
  // `set_serving` tells the health service. `parts` outlive this object.
  KvCacheService(const ServerOptions& options, const ServerParts& parts);

  // Must be told before calls come.
  void OnServing(std::function<void(bool serving)> set_serving) {
    set_serving_ = std::move(set_serving);
  }

  size_t open_fetches() const { return fetches_.size(); }
  size_t open_stores() const { return stores_.size(); }
  // Ends the streams that never end by themselves.
  void EndWatches() { watches_.CloseAll(); }

 private:
  // Each overrides the method of its name.
#define TESSERA_UNARY(Method)                                                                  \
  grpc::ServerUnaryReactor* Method(grpc::CallbackServerContext* context,                       \
                                   const cache::v1::Method##Request* request,                  \
                                   cache::v1::Method##Response* response) override;
  TESSERA_UNARY(GetCapabilities)
  TESSERA_UNARY(FindMissing)
  TESSERA_UNARY(Pin)
  TESSERA_UNARY(Unpin)
  TESSERA_UNARY(Prefetch)
  TESSERA_UNARY(List)
  TESSERA_UNARY(Delete)
  TESSERA_UNARY(Clear)
  TESSERA_UNARY(Flush)
  TESSERA_UNARY(Stats)
  TESSERA_UNARY(Drain)
#undef TESSERA_UNARY
  grpc::ServerWriteReactor<cache::v1::WatchEvent>* Watch(
      grpc::CallbackServerContext* context, const cache::v1::WatchRequest* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Fetch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* Store(grpc::CallbackServerContext* context,
                                                   grpc::ByteBuffer* response) override;

  // Whether the caller may call: UNAUTHENTICATED without the token.
  absl::Status CheckToken(grpc::CallbackServerContext* context) const;
  // Whether a Fetch or Store may start: also UNAVAILABLE while draining.
  absl::Status CheckStream(grpc::CallbackServerContext* context) const;

  // Runs `work` on a thread that may wait, and answers with its status.
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context,
                                std::function<absl::Status()> work);

  void FillStats(cache::v1::StatsResponse* response) const;
  absl::Status DrainUntil(absl::Time deadline, bool resume, cache::v1::DrainResponse* response);

  const ServerOptions options_;
  const ServerParts parts_;
  const absl::Time started_;
  LifeCycle life_cycle_;
  std::atomic<bool> draining_ = false;
  std::function<void(bool serving)> set_serving_;
  StreamWatch fetches_;
  StreamWatch stores_;
  StreamWatch watches_;
  ThreadPool events_;         // sends to watchers
  ThreadPool waiting_calls_;  // last: its work uses all of the above
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_KV_CACHE_SERVICE_H_
