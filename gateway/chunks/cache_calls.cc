#include "gateway/chunks/cache_calls.h"

#include <grpcpp/grpcpp.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/kv_cache.grpc.pb.h"

namespace tessera {
namespace {

namespace v1 = cache::v1;

// The server accepts more, if no option of it was made smaller than this.
constexpr size_t kKeysPerCall = 512;
// Of one Store message; and what a Fetch message may have.
constexpr size_t kPartBytes = size_t{1} << 20;
constexpr int kMaxMessageBytes = (8 << 20) + (256 << 10);

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const CacheCallsOptions& options) {
  if (options.cert_file.empty() != options.key_file.empty()) {
    return absl::InvalidArgumentError("a client certificate needs its key file, and a key its own");
  }
  if (options.ca_file.empty()) {
    if (!options.cert_file.empty()) {
      return absl::InvalidArgumentError(
          "a client certificate is for TLS: name the CA file to trust too");
    }
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions ssl;
  ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadSmallFile(options.ca_file, "CA"));
  if (!options.cert_file.empty()) {
    ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadSmallFile(options.cert_file, "certificate"));
    ASSIGN_OR_RETURN(ssl.pem_private_key, ReadSmallFile(options.key_file, "key"));
  }
  return grpc::SslCredentials(ssl);
}

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  // A server that is down should fail calls now, and be found soon after it is back.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Cache traffic never goes through a web proxy that the environment names.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  return arguments;
}

uint64_t Checksum(const std::string& value) { return XXH3_64bits(value.data(), value.size()); }

// Values of one Fetch call while their parts arrive, in offset order as the protocol has them.
class FetchedValues {
 public:
  explicit FetchedValues(size_t keys) : values_(keys) {}

  // False: this is not what was asked for.
  bool Take(v1::FetchResponse& response) {
    if (response.has_header()) return TakeHeader(response.header());
    return !response.has_slice() || TakeSlice(*response.mutable_slice());
  }

  std::vector<std::optional<std::string>> Finish() {
    std::vector<std::optional<std::string>> whole(values_.size());
    for (size_t i = 0; i < values_.size(); ++i) {
      Value& value = values_[i];
      const bool sound =
          value.wanted && value.bytes.size() == value.size && Checksum(value.bytes) == value.sum;
      if (sound) whole[i] = std::move(value.bytes);
      if (value.wanted && !sound) LOG_EVENT_LIMITED(kWarning, "damaged_chunk_record");
    }
    return whole;
  }

 private:
  struct Value {
    bool wanted = false;
    uint64_t size = 0;
    uint64_t sum = 0;
    std::string bytes;
  };

  // A later header takes back what the one before it said.
  bool TakeHeader(const v1::FetchHeader& header) {
    if (static_cast<size_t>(header.keys_size()) != values_.size()) return false;
    for (size_t i = 0; i < values_.size(); ++i) {
      const v1::KeyStatus& status = header.keys(static_cast<int>(i));
      values_[i].wanted = status.found() && status.layers() == 1 &&
                          status.slice_bytes() <= CacheCalls::kMaxValueBytes;
      values_[i].size = status.slice_bytes();
    }
    return true;
  }

  bool TakeSlice(v1::Slice& slice) {
    if (slice.key_index() >= values_.size()) return false;
    Value& value = values_[slice.key_index()];
    if (!value.wanted) return true;
    if (slice.layer() != 0 || slice.offset() != value.bytes.size() ||
        slice.payload().size() > value.size - value.bytes.size()) {
      return false;
    }
    value.sum = slice.checksum();
    value.bytes += slice.payload();
    return true;
  }

  std::vector<Value> values_;
};

class GrpcCacheCalls final : public CacheCalls {
 public:
  GrpcCacheCalls(CacheCallsOptions options, std::string token,
                 const std::shared_ptr<grpc::ChannelCredentials>& credentials)
      : options_(std::move(options)),
        token_(std::move(token)),
        stub_(v1::KvCache::NewStub(
            grpc::CreateCustomChannel(options_.address, credentials, Arguments()))) {}

  absl::Status Ping() override {
    v1::GetCapabilitiesResponse response;
    return Call(&v1::KvCache::Stub::GetCapabilities, v1::GetCapabilitiesRequest(),
                options_.deadline, &response);
  }

  absl::StatusOr<v1::StatsResponse> Stats(absl::Duration deadline) override {
    v1::StatsResponse response;
    RETURN_IF_ERROR(Call(&v1::KvCache::Stub::Stats, v1::StatsRequest(), deadline, &response));
    return response;
  }

  absl::StatusOr<bool> Store(const std::string& key, const std::string& tenant,
                             const std::string& value) override {
    grpc::ClientContext context;
    Prepare(options_.deadline, &context);
    v1::StoreResponse response;
    const auto stream = stub_->Store(&context, &response);
    v1::StoreRequest request;
    v1::StoreHeader* const header = request.mutable_header();
    header->set_key(key);
    header->set_layers(1);
    header->set_slice_bytes(value.size());
    header->set_tenant(tenant);
    bool open = stream->Write(request);
    const uint64_t checksum = Checksum(value);
    for (size_t offset = 0; open && offset < value.size(); offset += kPartBytes) {
      v1::Slice* const slice = request.mutable_slice();
      slice->set_offset(offset);
      slice->set_checksum(checksum);
      slice->set_payload(value.substr(offset, kPartBytes));
      open = stream->Write(request);
    }
    stream->WritesDone();
    RETURN_IF_ERROR(ToStatus(stream->Finish()));
    if (response.rejected() > 0) {
      return absl::ResourceExhaustedError("the cache has no room for this chunk's record");
    }
    return response.stored() > 0;
  }

  absl::StatusOr<std::vector<std::optional<std::string>>> Fetch(const Keys& keys) override {
    std::vector<std::optional<std::string>> values;
    for (const v1::FetchRequest& request : Batches<v1::FetchRequest>(keys)) {
      grpc::ClientContext context;
      Prepare(options_.deadline, &context);
      const auto stream = stub_->Fetch(&context, request);
      FetchedValues fetched(static_cast<size_t>(request.keys_size()));
      v1::FetchResponse response;
      bool sound = true;
      while (sound && stream->Read(&response)) sound = fetched.Take(response);
      if (!sound) context.TryCancel();
      const grpc::Status status = stream->Finish();
      if (!sound) return absl::UnavailableError("the cache server answers what was not asked");
      RETURN_IF_ERROR(ToStatus(status));
      for (auto& value : fetched.Finish()) values.push_back(std::move(value));
    }
    return values;
  }

  absl::StatusOr<Keys> FindMissing(const Keys& keys) override {
    Keys missing;
    for (const auto& request : Batches<v1::FindMissingRequest>(keys)) {
      v1::FindMissingResponse response;
      RETURN_IF_ERROR(Call(&v1::KvCache::Stub::FindMissing, request, options_.deadline, &response));
      missing.insert(missing.end(), response.missing_keys().begin(), response.missing_keys().end());
    }
    return missing;
  }

  absl::StatusOr<v1::PinResponse> Pin(const Keys& keys, absl::Duration ttl) override {
    v1::PinResponse all;
    for (v1::PinRequest& request : Batches<v1::PinRequest>(keys)) {
      request.set_ttl_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(ttl)));
      v1::PinResponse response;
      RETURN_IF_ERROR(Call(&v1::KvCache::Stub::Pin, request, options_.slow_deadline, &response));
      all.set_pinned(all.pinned() + response.pinned());
      all.set_missing(all.missing() + response.missing());
      all.set_refused(all.refused() + response.refused());
    }
    return all;
  }

  absl::Status Unpin(const Keys& keys) override {
    for (const auto& request : Batches<v1::UnpinRequest>(keys)) {
      v1::UnpinResponse response;
      RETURN_IF_ERROR(Call(&v1::KvCache::Stub::Unpin, request, options_.deadline, &response));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<uint32_t> Delete(const Keys& keys) override {
    uint32_t deleted = 0;
    for (const auto& request : Batches<v1::DeleteRequest>(keys)) {
      v1::DeleteResponse response;
      RETURN_IF_ERROR(Call(&v1::KvCache::Stub::Delete, request, options_.deadline, &response));
      deleted += response.deleted();
    }
    return deleted;
  }

  absl::StatusOr<size_t> Flush(const Keys& keys) override {
    size_t not_durable = 0;
    for (const auto& request : Batches<v1::FlushRequest>(keys)) {
      v1::FlushResponse response;
      const absl::Status status =
          Call(&v1::KvCache::Stub::Flush, request, options_.slow_deadline, &response);
      if (absl::IsFailedPrecondition(status)) return keys.size();
      RETURN_IF_ERROR(status);
      not_durable += static_cast<size_t>(response.not_durable_keys_size());
    }
    return not_durable;
  }

  absl::StatusOr<v1::ListResponse> List(const std::string& tenant, uint32_t size,
                                        const std::string& token) override {
    v1::ListRequest request;
    request.set_tenant(tenant);
    request.set_page_size(size);
    request.set_page_token(token);
    v1::ListResponse response;
    RETURN_IF_ERROR(Call(&v1::KvCache::Stub::List, request, options_.deadline, &response));
    return response;
  }

 private:
  // At least no request: no keys need no call.
  template <typename Request>
  static std::vector<Request> Batches(const Keys& keys) {
    std::vector<Request> requests;
    for (size_t i = 0; i < keys.size(); ++i) {
      if (i % kKeysPerCall == 0) requests.emplace_back();
      requests.back().add_keys(keys[i]);
    }
    return requests;
  }

  void Prepare(absl::Duration deadline, grpc::ClientContext* context) const {
    context->set_deadline(absl::ToChronoTime(absl::Now() + deadline));
    if (!token_.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", token_));
  }

  template <typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, absl::Duration deadline,
                    Response* response) {
    grpc::ClientContext context;
    Prepare(deadline, &context);
    return ToStatus((stub_.get()->*method)(&context, request, response));
  }

  // What gRPC says of a failed connection names addresses, so only the log gets it.
  absl::Status ToStatus(const grpc::Status& status) const {
    switch (status.error_code()) {
      case grpc::StatusCode::OK:
        return absl::OkStatus();
      case grpc::StatusCode::INVALID_ARGUMENT:
        return absl::InvalidArgumentError(status.error_message());
      case grpc::StatusCode::FAILED_PRECONDITION:
        return absl::FailedPreconditionError(status.error_message());
      default:
        break;
    }
    LOG_EVENT_LIMITED(kWarning, "cache_call_failed")
        .With("cache", options_.address)
        .WithError(absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                                status.error_message()));
    switch (status.error_code()) {
      case grpc::StatusCode::UNAUTHENTICATED:
      case grpc::StatusCode::PERMISSION_DENIED:
        return absl::UnavailableError("the cache server does not accept this gateway");
      case grpc::StatusCode::RESOURCE_EXHAUSTED:
        return absl::UnavailableError("the cache server is busy: try again later");
      default:
        return absl::UnavailableError("the cache server does not answer: try again later");
    }
  }

  const CacheCallsOptions options_;
  const std::string token_;
  const std::unique_ptr<v1::KvCache::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CacheCalls>> CacheCalls::Make(const CacheCallsOptions& options) {
  if (options.address.empty()) {
    return absl::InvalidArgumentError("no address of a cache server: give host:port or unix:/path");
  }
  ASSIGN_OR_RETURN(const auto credentials, MakeCredentials(options));
  std::string token;
  if (!options.token_file.empty()) {
    ASSIGN_OR_RETURN(token, ReadTokenFile(options.token_file));
  }
  return std::make_unique<GrpcCacheCalls>(options, std::move(token), credentials);
}

}  // namespace tessera
