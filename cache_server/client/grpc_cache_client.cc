#include "cache_server/client/grpc_cache_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/client/call_outcome.h"
#include "cache_server/client/fetch_call.h"
#include "cache_server/client/fetch_progress.h"
#include "cache_server/client/store_call.h"
#include "cache_server/transfer/keep_grpc.h"
#include "glog/logging.h"
#include "proto/kv_cache.grpc.pb.h"

namespace tessera {
namespace {

// Each channel has its own connection: a small question does not wait behind a megabyte of KV.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A server that is down should fail calls now, and be found soon after it is back.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A peer whose machine is gone answers nothing at all; only a ping finds out.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  // Cache traffic never goes through a web proxy that the environment names.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_TCP_READ_CHUNK_SIZE, 1 << 20);
  arguments.SetInt(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, 4 << 20);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
  arguments.SetMaxReceiveMessageSize(kMaxPartBytes + kMessageOverheadBytes);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

class GrpcFetchStream : public FetchStream {
 public:
  GrpcFetchStream(std::vector<FetchTarget> targets, absl::Time deadline,
                  absl::Duration header_timeout)
      : progress_(std::move(targets)),
        deadline_(deadline),
        header_deadline_(std::min(deadline, absl::Now() + header_timeout)) {}

  // All calls are cancelled before the first is waited for.
  ~GrpcFetchStream() override {
    for (const auto& call : calls_) call->Abandon();
  }

  void Start(grpc::GenericStub* stub, size_t keys_per_call,
             const std::shared_ptr<CallOutcomes>& outcomes) {
    const size_t targets = progress_.targets().size();
    for (size_t first = 0; first < targets; first += keys_per_call) {
      const size_t end = std::min(first + keys_per_call, targets);
      calls_.push_back(
          std::make_unique<FetchCall>(stub, &progress_, first, end, deadline_, outcomes));
    }
  }

  // Every target misses, without a call.
  void Skip() {
    progress_.Close(0, progress_.targets().size());
    header_waited_.store(true);
  }

  std::vector<std::string> WaitForHeader() override {
    AwaitHeader();
    return progress_.Tiers();
  }

  bool WaitForSlice(size_t target, uint32_t layer) override {
    AwaitHeader();
    return progress_.WaitForSlice(target, layer, deadline_);
  }

 private:
  void AwaitHeader() {
    if (header_waited_.load(std::memory_order_acquire)) return;
    for (const auto& call : calls_) {
      if (progress_.WaitForHeader(call->first(), call->end(), header_deadline_)) continue;
      call->GiveUp();
      progress_.Close(call->first(), call->end());
    }
    header_waited_.store(true, std::memory_order_release);
  }

  FetchProgress progress_;
  const absl::Time deadline_;
  const absl::Time header_deadline_;
  std::atomic<bool> header_waited_ = false;
  std::vector<std::unique_ptr<FetchCall>> calls_;  // last: they end before what they use
};

class GrpcCacheClient : public CacheClient {
 public:
  GrpcCacheClient(const std::string& address, const GrpcCacheClientOptions& options)
      : options_(options),
        outcomes_(std::make_shared<CallOutcomes>(options.breaker)),
        control_(cache::v1::KvCache::NewStub(MakeChannel(address))),
        fetches_(MakeChannel(address)),
        stores_(MakeChannel(address)) {
    CHECK_GT(options.keys_per_call, 0u);
    CHECK(options.part_bytes > 0 && options.part_bytes <= kMaxPartBytes);
  }

  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     absl::Duration timeout) override {
    const bool wanted = !targets.empty();
    auto stream = std::make_unique<GrpcFetchStream>(std::move(targets), absl::Now() + timeout,
                                                    options_.header_timeout);
    if (wanted && outcomes_->Allow()) {
      stream->Start(&fetches_, options_.keys_per_call, outcomes_);
    } else {
      stream->Skip();
    }
    return stream;
  }

  size_t Store(const std::vector<StoreSource>& sources, absl::Duration timeout) override {
    if (sources.empty() || !outcomes_->Allow()) return 0;
    const absl::StatusOr<size_t> stored = TryStore(sources, absl::Now() + timeout);
    if (stored.ok()) return *stored;
    outcomes_->StoreFailed();
    LOG(WARNING) << "event=store_failed pieces=" << sources.size() << " error=\""
                 << stored.status().message() << "\"";
    return 0;
  }

  ClientCounters counters() const override { return outcomes_->counters(); }

 private:
  absl::StatusOr<size_t> TryStore(const std::vector<StoreSource>& sources, absl::Time deadline) {
    ASSIGN_OR_RETURN(const std::vector<StoreSource> missing, FindMissing(sources, deadline));
    if (missing.empty()) {
      outcomes_->StoreSucceeded(0);
      return 0;
    }
    StoreCall call(&stores_, missing, options_.part_bytes, deadline);
    ASSIGN_OR_RETURN(const cache::v1::StoreResponse response, call.Wait());
    uint64_t bytes = 0;
    for (const StoreSource& source : missing) bytes += source.layers * source.slice_bytes;
    outcomes_->StoreSucceeded(bytes);
    return response.stored();
  }

  // Those of the sources that the server does not have, each key once. Asking costs one small round
  // trip, and saves sending pieces that are there already.
  absl::StatusOr<std::vector<StoreSource>> FindMissing(const std::vector<StoreSource>& sources,
                                                       absl::Time deadline) {
    std::vector<StoreSource> missing;
    for (size_t first = 0; first < sources.size(); first += options_.keys_per_call) {
      const auto some = absl::MakeConstSpan(sources).subspan(first, options_.keys_per_call);
      cache::v1::FindMissingRequest request;
      for (const StoreSource& source : some) {
        request.add_keys(std::string(source.key.AsBytes()));
      }
      cache::v1::FindMissingResponse response;
      grpc::ClientContext context;
      context.set_deadline(
          absl::ToChronoTime(std::min(deadline, absl::Now() + options_.header_timeout)));
      const grpc::Status status = control_->FindMissing(&context, request, &response);
      if (!status.ok()) {
        return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                            status.error_message());
      }
      absl::flat_hash_set<std::string> keys(response.missing_keys().begin(),
                                            response.missing_keys().end());
      for (const StoreSource& source : some) {
        const bool sendable = source.layers > 0 && source.slice_bytes > 0;
        if (sendable && keys.erase(std::string(source.key.AsBytes())) > 0)
          missing.push_back(source);
      }
    }
    return missing;
  }

  const GrpcCacheClientOptions options_;
  const std::shared_ptr<CallOutcomes> outcomes_;
  const std::unique_ptr<cache::v1::KvCache::Stub> control_;
  grpc::GenericStub fetches_;
  grpc::GenericStub stores_;
};

}  // namespace

std::unique_ptr<CacheClient> MakeGrpcCacheClient(const std::string& address,
                                                 const GrpcCacheClientOptions& options) {
  KeepGrpc();
  return std::make_unique<GrpcCacheClient>(address, options);
}

std::unique_ptr<CacheClient> MakeGrpcCacheClient(const std::string& address) {
  return MakeGrpcCacheClient(address, GrpcCacheClientOptions());
}

}  // namespace tessera
