// GET /cluster: how workers and cache server stand, for people and the live page.
#ifndef TESSERA_GATEWAY_OPENAI_CLUSTER_H_
#define TESSERA_GATEWAY_OPENAI_CLUSTER_H_

#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "boost/json/object.hpp"
#include "gateway/chunks/cache_calls.h"
#include "gateway/router/worker_pool.h"
#include "proto/kv_cache.pb.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

// Thread-safe.
class Cluster {
 public:
  // However many ask, the cache server is asked at most once in this time, and no longer waited for
  // than that.
  static constexpr absl::Duration kCacheAskedEvery = absl::Seconds(1);
  static constexpr absl::Duration kCacheAnswersWithin = absl::Milliseconds(500);

  // cache: null where there is no cache server. Both must outlive it.
  Cluster(const WorkerPool* workers, CacheCalls* cache) : workers_(*workers), cache_(cache) {}

  // What the prompts of one request used.
  void Count(const worker::v1::PromptUsage& usage);

  // The body of the answer. May wait for the cache server; one that does not answer is said to be
  // unreachable, and is no error.
  boost::json::object Report();

 private:
  absl::StatusOr<cache::v1::StatsResponse> CacheStats();
  boost::json::object PromptTokens() const;

  const WorkerPool& workers_;
  CacheCalls* const cache_;
  mutable absl::Mutex mutex_;
  // Prompt tokens since the start, by where their KV came from.
  uint64_t exact_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t blended_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t recomputed_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t computed_ ABSL_GUARDED_BY(mutex_) = 0;
  // Held while the cache server is asked: who comes meanwhile gets the same answer.
  absl::Mutex asking_;
  absl::Time asked_ ABSL_GUARDED_BY(asking_) = absl::InfinitePast();
  std::optional<absl::StatusOr<cache::v1::StatsResponse>> stats_ ABSL_GUARDED_BY(asking_);
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_CLUSTER_H_
