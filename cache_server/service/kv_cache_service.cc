#include "cache_server/service/kv_cache_service.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <random>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/service/fetch_reactor.h"
#include "cache_server/service/grpc_status.h"
#include "cache_server/service/store_reactor.h"

namespace tessera {
namespace {

constexpr uint32_t kProtocolVersion = 1;

std::string RandomId() {
  std::random_device random;
  return absl::StrCat(absl::Hex(random(), absl::kZeroPad8), absl::Hex(random(), absl::kZeroPad8));
}

template <typename Strings>
absl::StatusOr<std::vector<ChunkKey>> ParseKeys(const Strings& raw_keys, size_t max_keys) {
  if (static_cast<size_t>(raw_keys.size()) > max_keys) {
    return absl::InvalidArgumentError(
        absl::StrCat(raw_keys.size(), " keys in one call; at most ", max_keys, " are accepted"));
  }
  std::vector<ChunkKey> keys;
  keys.reserve(raw_keys.size());
  for (const std::string& raw : raw_keys) {
    ASSIGN_OR_RETURN(const ChunkKey key, ChunkKey::FromBytes(raw));
    keys.push_back(key);
  }
  return keys;
}

absl::StatusOr<std::vector<ChunkKey>> ParseFetchRequest(const grpc::ByteBuffer& raw,
                                                        size_t max_keys) {
  grpc::ByteBuffer buffer(raw);
  cache::v1::FetchRequest request;
  if (!grpc::SerializationTraits<cache::v1::FetchRequest>::Deserialize(&buffer, &request).ok()) {
    return absl::InvalidArgumentError("malformed FetchRequest");
  }
  return ParseKeys(request.keys(), max_keys);
}

grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context,
                                    const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

KvCacheService::KvCacheService(const ServerOptions& options, ChunkStore* store)
    : options_(options),
      store_(store),
      instance_id_(RandomId()),
      fetches_(options.max_open_fetches),
      stores_(options.max_open_stores) {}

grpc::ServerUnaryReactor* KvCacheService::GetCapabilities(
    grpc::CallbackServerContext* context, const cache::v1::GetCapabilitiesRequest* request,
    cache::v1::GetCapabilitiesResponse* response) {
  response->set_protocol_version(kProtocolVersion);
  response->set_instance_id(instance_id_);
  response->set_max_keys_per_call(options_.max_keys_per_call);
  response->set_max_slice_bytes(options_.max_slice_bytes);
  for (const TierStats& stats : store_->Stats()) {
    cache::v1::TierStats* tier = response->add_tiers();
    tier->set_name(stats.name);
    tier->set_capacity_bytes(stats.capacity_bytes);
    tier->set_used_bytes(stats.used_bytes);
    tier->set_entries(stats.entries);
    tier->set_hits(stats.hits);
    tier->set_misses(stats.misses);
    tier->set_evictions(stats.evictions);
  }
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KvCacheService::FindMissing(grpc::CallbackServerContext* context,
                                                      const cache::v1::FindMissingRequest* request,
                                                      cache::v1::FindMissingResponse* response) {
  const auto keys = ParseKeys(request->keys(), options_.max_keys_per_call);
  if (!keys.ok()) return FinishNow(context, keys.status());
  absl::flat_hash_set<ChunkKey> named;
  for (const ChunkKey& key : store_->FindMissing(*keys)) {
    if (named.insert(key).second) response->add_missing_keys(std::string(key.AsBytes()));
  }
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* KvCacheService::Fetch(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  auto* reactor = new FetchReactor(context, &fetches_, options_.message_bytes, options_.lease);
  const auto keys = ParseFetchRequest(*request, options_.max_keys_per_call);
  if (!keys.ok()) {
    reactor->Refuse(ToGrpcStatus(keys.status()));
  } else if (!fetches_.TryEnter(reactor)) {
    reactor->Refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many open fetches"});
  } else {
    reactor->Start(store_, *keys);
  }
  return reactor;
}

grpc::ServerReadReactor<grpc::ByteBuffer>* KvCacheService::Store(
    grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  auto* reactor = new StoreReactor(&stores_, PieceWriter(store_, options_.max_slice_bytes),
                                   absl::Now() + options_.store_timeout, response);
  if (stores_.TryEnter(reactor)) {
    reactor->Start();
  } else {
    reactor->Refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many open stores"});
  }
  return reactor;
}

}  // namespace tessera
