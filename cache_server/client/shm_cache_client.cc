#include "cache_server/client/shm_cache_client.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "cache_server/client/shm_fetch.h"
#include "cache_server/client/shm_store.h"
#include "glog/logging.h"

namespace tessera {
namespace {

class ShmCacheClient : public CacheClient {
 public:
  ShmCacheClient(std::unique_ptr<GrpcCacheClient> grpc, std::string token,
                 const ShmCacheClientOptions& options)
      : options_(options),
        link_(options.link, std::move(token),
              [this](ShmLink::Found found) { grpc_->AskForShm(std::move(found)); }),
        grpc_(std::move(grpc)) {}

  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override {
    absl::StatusOr<std::unique_ptr<ShmConnection>> connection = Connect();
    if (!connection.ok() || targets.empty()) {
      if (connection.ok()) link_.Give(*std::move(connection), true);
      return grpc_->Fetch(std::move(targets), options);
    }
    if (targets.size() > (*connection)->mapping()->welcome.most_keys) {
      link_.Give(*std::move(connection), true);
      return grpc_->Fetch(std::move(targets), options);
    }
    const absl::Time now = absl::Now();
    ShmFetchOptions fetch = {
        .deadline = now + options.timeout,
        .use_deadline = now + options.timeout + options.use_within,
        .acquire_deadline = now + std::min(options.timeout, options_.acquire_timeout),
        .stop_at_first_miss = options.stop_at_first_miss,
        .request_id = options.request_id};
    fetch.fall_back = [this, targets, options, deadline = fetch.deadline] {
      FetchOptions rest = options;
      rest.timeout = std::max(deadline - absl::Now(), absl::ZeroDuration());
      return grpc_->Fetch(targets, rest);
    };
    fetch.on_progress = options.on_progress;
    auto stream = std::make_unique<ShmFetchStream>(
        &link_, grpc_->outcomes(), *std::move(connection), std::move(targets), std::move(fetch));
    stream->Start();
    return stream;
  }

  size_t Store(const std::vector<StoreSource>& sources, const CallOptions& options) override {
    if (sources.empty()) return 0;
    const absl::Time deadline = absl::Now() + options.timeout;
    link_.WaitUntilAsked(std::min(deadline, absl::Now() + options_.ask_timeout));
    absl::StatusOr<std::unique_ptr<ShmConnection>> connection = Connect();
    if (!connection.ok()) return grpc_->Store(sources, options);
    ShmStore store(connection->get(), sources, deadline, options.request_id);
    const absl::Status status = store.Run();
    CallOutcomes& outcomes = *grpc_->outcomes();
    outcomes.ShmStored(store.stored_bytes());
    for (size_t i = 0; i < store.damaged(); ++i) outcomes.ChecksumFailed();
    if (!status.ok()) {
      outcomes.ShmFellBack();
      link_.Fail(**connection, status);
    }
    link_.Give(*std::move(connection), status.ok());
    if (store.left().empty()) return store.stored();
    return store.stored() +
           grpc_->Store(store.left(), {deadline - absl::Now(), options.request_id});
  }

  // A small question: shared memory would gain nothing.
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys,
                                const CallOptions& options) override {
    return grpc_->FindMissing(keys, options);
  }

  ClientCounters counters() const override { return grpc_->counters(); }

 private:
  absl::StatusOr<std::unique_ptr<ShmConnection>> Connect() {
    absl::StatusOr<std::unique_ptr<ShmConnection>> connection = link_.Take();
    // NOT_FOUND: nothing has failed.
    if (!connection.ok() && !absl::IsNotFound(connection.status())) {
      grpc_->outcomes()->ShmFellBack();
    }
    return connection;
  }

  const ShmCacheClientOptions options_;
  ShmLink link_;  // before grpc_: its answers to link_'s questions come before grpc_ is gone
  const std::unique_ptr<GrpcCacheClient> grpc_;
};

}  // namespace

std::unique_ptr<CacheClient> MakeShmCacheClient(std::unique_ptr<GrpcCacheClient> grpc,
                                                std::string token,
                                                const ShmCacheClientOptions& options) {
  return std::make_unique<ShmCacheClient>(std::move(grpc), std::move(token), options);
}

}  // namespace tessera
