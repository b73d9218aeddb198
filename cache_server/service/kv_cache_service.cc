#include "cache_server/service/kv_cache_service.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/service/call_log.h"
#include "cache_server/service/fetch_reactor.h"
#include "cache_server/service/grpc_status.h"
#include "cache_server/service/store_reactor.h"
#include "cache_server/service/store_samples.h"
#include "cache_server/service/watch_reactor.h"

namespace tessera {
namespace {

constexpr uint32_t kProtocolVersion = 1;

// Calls that wait for a disk: few at a time, and some more that wait for their turn.
constexpr size_t kWaitingThreads = 4;
constexpr size_t kWaitingCalls = 256;

absl::StatusOr<cache::v1::FetchRequest> ParseFetchRequest(const grpc::ByteBuffer& raw) {
  grpc::ByteBuffer buffer(raw);
  cache::v1::FetchRequest request;
  if (!grpc::SerializationTraits<cache::v1::FetchRequest>::Deserialize(&buffer, &request).ok()) {
    return absl::InvalidArgumentError("malformed FetchRequest");
  }
  return request;
}

void ShowTier(const TierStats& stats, cache::v1::TierStats* tier) {
  tier->set_name(stats.name);
  tier->set_capacity_bytes(stats.capacity_bytes);
  tier->set_used_bytes(stats.used_bytes);
  tier->set_entries(stats.entries);
  tier->set_hits(stats.hits);
  tier->set_misses(stats.misses);
  tier->set_read_bytes(stats.read_bytes);
  tier->set_written_bytes(stats.written_bytes);
  tier->set_refused(stats.refused);
  uint64_t evictions = 0;
  for (size_t i = 0; i < kEvictionReasons; ++i) {
    const char* reason = EvictionReasonName(static_cast<EvictionReason>(i));
    (*tier->mutable_evictions_by_reason())[reason] = stats.evictions[i];
    evictions += stats.evictions[i];
  }
  tier->set_evictions(evictions);
}

// What a client's log calls the request; empty: it does not say.
std::string RequestIdOf(grpc::CallbackServerContext* context) {
  const auto found = context->client_metadata().find("x-request-id");
  if (found == context->client_metadata().end()) return {};
  return {found->second.data(), std::min<size_t>(found->second.size(), kMostRequestIdBytes)};
}

grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context,
                                    const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

KvCacheService::KvCacheService(const ServerOptions& options, const ServerParts& parts)
    : options_(options),
      parts_(parts),
      started_(absl::Now()),
      life_cycle_(parts.store, options.max_keys_per_call),
      fetches_(options.max_open_fetches),
      stores_(options.max_open_stores),
      watches_(options.max_watches),
      events_(1, kWaitingCalls),
      waiting_calls_(kWaitingThreads, kWaitingCalls) {}

absl::Status KvCacheService::CheckToken(grpc::CallbackServerContext* context) const {
  if (options_.token.empty()) return absl::OkStatus();
  const std::string wanted = absl::StrCat("Bearer ", options_.token);
  const auto& metadata = context->client_metadata();
  const auto found = metadata.find("authorization");
  // Its length may be learnt, its bytes not.
  if (found != metadata.end() && found->second.size() == wanted.size() &&
      CRYPTO_memcmp(found->second.data(), wanted.data(), wanted.size()) == 0) {
    return absl::OkStatus();
  }
  ++parts_.counters->unauthenticated;
  return absl::UnauthenticatedError(
      "this server wants the metadata 'authorization: Bearer TOKEN' with its token");
}

absl::Status KvCacheService::CheckStream(grpc::CallbackServerContext* context) const {
  RETURN_IF_ERROR(CheckToken(context));
  if (draining_) return absl::UnavailableError("this server is draining");
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* KvCacheService::Run(grpc::CallbackServerContext* context,
                                              std::function<absl::Status()> work) {
  const absl::Status allowed = CheckToken(context);
  if (!allowed.ok()) return FinishNow(context, allowed);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool taken = waiting_calls_.TryRun([reactor, context, work = std::move(work)] {
    // Whoever has left wants nothing any more; a long queue should not be worked off for nobody.
    reactor->Finish(context->IsCancelled() ? grpc::Status::CANCELLED : ToGrpcStatus(work()));
  });
  if (!taken) {
    reactor->Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many calls wait; try again later"});
  }
  return reactor;
}

grpc::ServerUnaryReactor* KvCacheService::GetCapabilities(
    grpc::CallbackServerContext* context, const cache::v1::GetCapabilitiesRequest* request,
    cache::v1::GetCapabilitiesResponse* response) {
  const absl::Status allowed = CheckToken(context);
  if (!allowed.ok()) return FinishNow(context, allowed);
  response->set_protocol_version(kProtocolVersion);
  response->set_instance_id(options_.instance_id);
  response->set_max_keys_per_call(options_.max_keys_per_call);
  response->set_max_slice_bytes(options_.max_slice_bytes);
  response->set_shm_socket(options_.shm_socket);
  for (const TierStats& stats : parts_.store->Stats()) ShowTier(stats, response->add_tiers());
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KvCacheService::FindMissing(grpc::CallbackServerContext* context,
                                                      const cache::v1::FindMissingRequest* request,
                                                      cache::v1::FindMissingResponse* response) {
  const absl::Status allowed = CheckToken(context);
  if (!allowed.ok()) return FinishNow(context, allowed);
  const auto keys = ParseKeys(request->keys(), options_.max_keys_per_call);
  if (!keys.ok()) return FinishNow(context, keys.status());
  const absl::Time start = absl::Now();
  absl::flat_hash_set<ChunkKey> named;
  for (const ChunkKey& key : parts_.store->FindMissing(*keys)) {
    if (named.insert(key).second) response->add_missing_keys(std::string(key.AsBytes()));
  }
  LogLookup({.request = RequestIdOf(context), .transport = "grpc", .took = absl::Now() - start},
            keys->size(), named.size());
  return FinishNow(context, absl::OkStatus());
}

// The calls of LifeCycle, each on a thread that may wait.
#define TESSERA_LIFE_CYCLE(Method)                                                            \
  grpc::ServerUnaryReactor* KvCacheService::Method(grpc::CallbackServerContext* context,      \
                                                   const cache::v1::Method##Request* request, \
                                                   cache::v1::Method##Response* response) {   \
    return Run(context,                                                                       \
               [this, request, response] { return life_cycle_.Method(*request, response); }); \
  }
TESSERA_LIFE_CYCLE(Pin)
TESSERA_LIFE_CYCLE(Unpin)
TESSERA_LIFE_CYCLE(Prefetch)
TESSERA_LIFE_CYCLE(List)
TESSERA_LIFE_CYCLE(Delete)
TESSERA_LIFE_CYCLE(Clear)
TESSERA_LIFE_CYCLE(Flush)
#undef TESSERA_LIFE_CYCLE

grpc::ServerUnaryReactor* KvCacheService::Stats(grpc::CallbackServerContext* context,
                                                const cache::v1::StatsRequest* request,
                                                cache::v1::StatsResponse* response) {
  return Run(context, [this, response] {
    FillStats(response);
    return absl::OkStatus();
  });
}

void KvCacheService::FillStats(cache::v1::StatsResponse* response) const {
  for (const TierStats& stats : parts_.store->Stats()) ShowTier(stats, response->add_tiers());
  const PinTable& pins = parts_.store->pins();
  response->set_pinned_pieces(pins.size());
  response->set_pinned_bytes(pins.bytes());
  response->set_open_fetches(fetches_.size());
  response->set_open_stores(stores_.size());
  response->set_watchers(watches_.size());
  const StoreCounters counters = parts_.store->counters();
  response->set_write_queue_pieces(counters.writes.pieces);
  response->set_write_queue_bytes(counters.writes.bytes);
  if (parts_.shm != nullptr) {
    const ShmCounters shm = parts_.shm->counters();
    response->set_shm_sessions(shm.sessions);
    response->set_shm_leases(shm.leases);
  }
  response->set_uptime_ms(absl::ToInt64Milliseconds(absl::Now() - started_));
  response->set_draining(draining_);
  for (const MetricSample& sample : StoreSamples({.store = parts_.store,
                                                  .counters = parts_.counters,
                                                  .shm = parts_.shm,
                                                  .open_fetches = fetches_.size(),
                                                  .open_stores = stores_.size()})) {
    auto* values = sample.counter ? response->mutable_counters() : response->mutable_gauges();
    (*values)[SampleName(sample)] = sample.value;
  }
}

grpc::ServerUnaryReactor* KvCacheService::Drain(grpc::CallbackServerContext* context,
                                                const cache::v1::DrainRequest* request,
                                                cache::v1::DrainResponse* response) {
  // A little before the caller's deadline, so that the answer reaches it.
  const absl::Time deadline =
      std::min(absl::FromChrono(context->deadline()) - absl::Milliseconds(200),
               absl::Now() + options_.longest_drain);
  const bool resume = request->resume();
  return Run(context,
             [this, deadline, resume, response] { return DrainUntil(deadline, resume, response); });
}

absl::Status KvCacheService::DrainUntil(absl::Time deadline, bool resume,
                                        cache::v1::DrainResponse* response) {
  draining_ = !resume;
  if (parts_.shm != nullptr) parts_.shm->SetDraining(!resume);
  if (set_serving_ != nullptr) set_serving_(resume);
  if (!resume) {
    fetches_.WaitUntilEmpty(deadline);
    stores_.WaitUntilEmpty(deadline);
    if (parts_.shm != nullptr) parts_.shm->WaitForNoLeases(deadline);
    const auto flushed = parts_.store->Flush({});
    if (!flushed.ok() && !absl::IsFailedPrecondition(flushed.status())) return flushed.status();
  }
  response->set_open_fetches(fetches_.size());
  response->set_open_stores(stores_.size());
  if (parts_.shm != nullptr) response->set_shm_leases(parts_.shm->counters().leases);
  return absl::OkStatus();
}

grpc::ServerWriteReactor<cache::v1::WatchEvent>* KvCacheService::Watch(
    grpc::CallbackServerContext* context, const cache::v1::WatchRequest* request) {
  auto* reactor = new WatchReactor(&watches_, parts_.events, &events_);
  const absl::Status allowed = CheckToken(context);
  if (!allowed.ok()) {
    reactor->Refuse(ToGrpcStatus(allowed));
  } else if (parts_.events == nullptr) {
    reactor->Refuse({grpc::StatusCode::UNIMPLEMENTED, "this server keeps no events"});
  } else if (!watches_.TryEnter(reactor)) {
    reactor->Refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watchers"});
  } else {
    reactor->Start();
  }
  return reactor;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* KvCacheService::Fetch(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* raw) {
  auto* reactor = new FetchReactor(context, &fetches_, options_.message_bytes, options_.lease,
                                   parts_.counters, RequestIdOf(context));
  const absl::Status allowed = CheckStream(context);
  if (!allowed.ok()) {
    reactor->Refuse(ToGrpcStatus(allowed));
    return reactor;
  }
  const auto request = ParseFetchRequest(*raw);
  const auto keys = request.ok() ? ParseKeys(request->keys(), options_.max_keys_per_call)
                                 : absl::StatusOr<std::vector<ChunkKey>>(request.status());
  if (!keys.ok()) {
    reactor->Refuse(ToGrpcStatus(keys.status()));
  } else if (!fetches_.TryEnter(reactor)) {
    reactor->Refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many open fetches"});
  } else {
    reactor->Start(FetchPieces::Start(parts_.store, *keys, request->stop_at_first_miss()));
  }
  return reactor;
}

grpc::ServerReadReactor<grpc::ByteBuffer>* KvCacheService::Store(
    grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  auto* reactor = new StoreReactor(&stores_, PieceWriter(parts_.store, options_.max_slice_bytes),
                                   absl::Now() + options_.store_timeout, response, parts_.counters,
                                   RequestIdOf(context));
  const absl::Status allowed = CheckStream(context);
  if (!allowed.ok()) {
    reactor->Refuse(ToGrpcStatus(allowed));
  } else if (stores_.TryEnter(reactor)) {
    reactor->Start();
  } else {
    reactor->Refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many open stores"});
  }
  return reactor;
}

}  // namespace tessera
