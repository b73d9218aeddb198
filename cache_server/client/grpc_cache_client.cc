#include "cache_server/client/grpc_cache_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cache_server/client/background_calls.h"
#include "cache_server/client/channel.h"
#include "cache_server/client/fetch_call.h"
#include "cache_server/client/fetch_progress.h"
#include "cache_server/client/store_call.h"
#include "glog/logging.h"
#include "proto/kv_cache.grpc.pb.h"

namespace tessera {
namespace {

class GrpcFetchStream : public FetchStream {
 public:
  GrpcFetchStream(std::vector<FetchTarget> targets, FetchCallOptions options,
                  const GrpcCacheClientOptions& client, std::function<void()> on_progress)
      : progress_(std::move(targets), std::move(on_progress), client.read_memory),
        options_(std::move(options)),
        header_deadline_(std::min(options_.deadline, absl::Now() + client.header_timeout)) {}

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
          std::make_unique<FetchCall>(stub, &progress_, first, end, options_, outcomes));
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
    return progress_.WaitForSlice(target, layer, options_.deadline);
  }

  bool HeaderReady() override {
    if (header_waited_.load(std::memory_order_acquire)) return true;
    const auto is_here = [this](const auto& call) {
      return progress_.HasHeader(call->first(), call->end());
    };
    const bool late = absl::Now() >= header_deadline_;
    if (!late && !std::all_of(calls_.begin(), calls_.end(), is_here)) return false;
    AwaitHeader();  // which has nothing left to wait for
    return true;
  }

  bool SliceReady(size_t target, uint32_t layer) override {
    if (!HeaderReady()) return false;
    return progress_.IsDecided(target, layer) || absl::Now() >= options_.deadline;
  }

  absl::Time ready_by() override {
    return header_waited_.load(std::memory_order_acquire) ? options_.deadline : header_deadline_;
  }

  uint32_t ReadyLayers(size_t target) override { return progress_.ReadyLayers(target); }

  absl::Span<const std::byte> Slices(size_t target, uint32_t first_layer,
                                     uint32_t layers) override {
    return progress_.Slices(target, first_layer, layers);
  }

  // The bytes are ours.
  bool LeaseHeld() override { return true; }

  void Cancel() override {
    progress_.Close(0, progress_.targets().size());
    for (const auto& call : calls_) call->Abandon();
  }

 private:
  void AwaitHeader() {
    if (header_waited_.load(std::memory_order_acquire)) return;
    for (const auto& call : calls_) {
      if (progress_.WaitForHeader(call->first(), call->end(), header_deadline_)) continue;
      call->GiveUp();
      progress_.Close(call->first(), call->end());
    }
    // Each call knows of its own misses only.
    if (options_.stop_at_first_miss) progress_.CloseAfterFirstMiss();
    header_waited_.store(true, std::memory_order_release);
  }

  FetchProgress progress_;
  const FetchCallOptions options_;
  const absl::Time header_deadline_;
  std::atomic<bool> header_waited_ = false;
  std::vector<std::unique_ptr<FetchCall>> calls_;  // last: they end before what they use
};

// The connections of one client: a small question does not wait behind a megabyte of KV.
struct Channels {
  std::vector<std::shared_ptr<grpc::Channel>> fetches;
  std::shared_ptr<grpc::Channel> stores;
  std::shared_ptr<grpc::Channel> control;
};

class ChannelCacheClient : public GrpcCacheClient {
 public:
  ChannelCacheClient(const Channels& channels, std::string token,
                     const GrpcCacheClientOptions& options)
      : options_(options),
        token_(std::move(token)),
        outcomes_(std::make_shared<CallOutcomes>(options.breaker)),
        control_(cache::v1::KvCache::NewStub(channels.control)),
        stores_(channels.stores),
        background_(control_.get(), token_) {
    CHECK_GT(options.keys_per_call, 0u);
    CHECK(options.part_bytes > 0 && options.part_bytes <= kMaxPartBytes);
    for (const auto& channel : channels.fetches) {
      fetches_.push_back(std::make_unique<grpc::GenericStub>(channel));
    }
  }

  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override {
    const bool wanted = !targets.empty();
    FetchCallOptions call = {
        .deadline = absl::Now() + options.timeout,
        .stop_at_first_miss = options.stop_at_first_miss,
        .token = token_,
        .request_id = options.request_id,
        .on_damaged = [this](const ChunkKey& key) { background_.Delete(key); }};
    auto stream = std::make_unique<GrpcFetchStream>(std::move(targets), std::move(call), options_,
                                                    options.on_progress);
    if (wanted && outcomes_->Allow()) {
      const size_t turn = next_fetch_.fetch_add(1, std::memory_order_relaxed) % fetches_.size();
      stream->Start(fetches_[turn].get(), options_.keys_per_call, outcomes_);
    } else {
      stream->Skip();
    }
    return stream;
  }

  size_t Store(const std::vector<StoreSource>& sources, const CallOptions& options) override {
    if (sources.empty() || !outcomes_->Allow()) return 0;
    const absl::StatusOr<size_t> stored =
        TryStore(sources, absl::Now() + options.timeout, options.request_id);
    if (stored.ok()) return *stored;
    outcomes_->StoreFailed();
    LOG_EVENT_LIMITED(kWarning, "store_failed")
        .With("request", options.request_id)
        .With("pieces", sources.size())
        .WithError(stored.status());
    return 0;
  }

  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys,
                                const CallOptions& options) override {
    if (!keys.empty() && outcomes_->Allow()) {
      absl::StatusOr<std::vector<bool>> is_missing =
          AskMissing(keys, absl::Now() + options.timeout, options.request_id);
      if (is_missing.ok()) {
        outcomes_->FetchSucceeded();
        return *std::move(is_missing);
      }
      outcomes_->FetchFailed();
      LOG_EVENT_LIMITED(kWarning, "find_missing_failed")
          .With("request", options.request_id)
          .With("keys", keys.size())
          .WithError(is_missing.status());
    }
    return std::vector<bool>(keys.size(), true);
  }

  ClientCounters counters() const override { return outcomes_->counters(); }
  const std::shared_ptr<CallOutcomes>& outcomes() const override { return outcomes_; }

  void AskForShm(std::function<void(absl::StatusOr<ShmAddress>)> done) override {
    background_.GetCapabilities(
        options_.header_timeout, [done = std::move(done)](BackgroundCalls::Capabilities answer) {
          if (!answer.ok()) return done(answer.status());
          done(ShmAddress{.socket = answer->shm_socket(), .instance_id = answer->instance_id()});
        });
  }

 private:
  absl::StatusOr<size_t> TryStore(const std::vector<StoreSource>& sources, absl::Time deadline,
                                  const std::string& request_id) {
    ASSIGN_OR_RETURN(const std::vector<StoreSource> missing,
                     Missing(sources, deadline, request_id));
    if (missing.empty()) {
      outcomes_->StoreSucceeded(0);
      return 0;
    }
    StoreCall call(&stores_, missing, options_.part_bytes, deadline, token_, request_id);
    ASSIGN_OR_RETURN(const cache::v1::StoreResponse response, call.Wait());
    uint64_t bytes = 0;
    for (const StoreSource& source : missing) bytes += source.layers * source.slice_bytes;
    outcomes_->StoreSucceeded(bytes);
    return response.stored();
  }

  // Those of the sources that the server does not have, each key once. Asking costs one small round
  // trip, and saves sending pieces that are there already.
  absl::StatusOr<std::vector<StoreSource>> Missing(const std::vector<StoreSource>& sources,
                                                   absl::Time deadline,
                                                   const std::string& request_id) {
    std::vector<ChunkKey> keys;
    for (const StoreSource& source : sources) keys.push_back(source.key);
    ASSIGN_OR_RETURN(const std::vector<bool> is_missing, AskMissing(keys, deadline, request_id));
    std::vector<StoreSource> missing;
    absl::flat_hash_set<ChunkKey> seen;
    for (size_t i = 0; i < sources.size(); ++i) {
      const bool sendable = sources[i].layers > 0 && sources[i].slice_bytes > 0;
      if (sendable && is_missing[i] && seen.insert(keys[i]).second) missing.push_back(sources[i]);
    }
    return missing;
  }

  absl::StatusOr<std::vector<bool>> AskMissing(const std::vector<ChunkKey>& keys,
                                               absl::Time deadline, const std::string& request_id) {
    std::vector<bool> is_missing;
    for (size_t first = 0; first < keys.size(); first += options_.keys_per_call) {
      const auto some = absl::MakeConstSpan(keys).subspan(first, options_.keys_per_call);
      cache::v1::FindMissingRequest request;
      for (const ChunkKey& key : some) request.add_keys(std::string(key.AsBytes()));
      cache::v1::FindMissingResponse response;
      grpc::ClientContext context;
      context.set_deadline(
          absl::ToChronoTime(std::min(deadline, absl::Now() + options_.header_timeout)));
      AddToken(token_, &context);
      AddRequestId(request_id, &context);
      const grpc::Status status = control_->FindMissing(&context, request, &response);
      if (!status.ok()) {
        return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                            status.error_message());
      }
      const absl::flat_hash_set<std::string> missing(response.missing_keys().begin(),
                                                     response.missing_keys().end());
      for (const ChunkKey& key : some) {
        is_missing.push_back(missing.contains(std::string(key.AsBytes())));
      }
    }
    return is_missing;
  }

  const GrpcCacheClientOptions options_;
  const std::string token_;
  const std::shared_ptr<CallOutcomes> outcomes_;
  const std::unique_ptr<cache::v1::KvCache::Stub> control_;
  std::vector<std::unique_ptr<grpc::GenericStub>> fetches_;
  std::atomic<size_t> next_fetch_ = 0;
  grpc::GenericStub stores_;
  BackgroundCalls background_;  // last: its calls end before what they use
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcCacheClient>> MakeGrpcCacheClient(
    const CacheAddress& address, const GrpcCacheClientOptions& options) {
  CHECK_GT(options.fetch_channels, 0u);
  ASSIGN_OR_RETURN(std::string token, ReadToken(address));
  Channels channels;
  ASSIGN_OR_RETURN(channels.control, MakeChannel(address));
  ASSIGN_OR_RETURN(channels.stores, MakeChannel(address));
  for (size_t i = 0; i < options.fetch_channels; ++i) {
    ASSIGN_OR_RETURN(channels.fetches.emplace_back(), MakeChannel(address));
  }
  return std::make_unique<ChannelCacheClient>(channels, std::move(token), options);
}

}  // namespace tessera
