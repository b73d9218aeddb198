#include "cache_server/service/server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/service/credentials.h"
#include "cache_server/service/kv_cache_service.h"
#include "cache_server/transfer/keep_grpc.h"
#include "glog/logging.h"
#include "proto/health.pb.h"

namespace tessera {
namespace {

constexpr char kUnixPrefix[] = "unix:";

absl::Status CheckOptions(const ServerOptions& options) {
  if (options.message_bytes == 0 || options.message_bytes > kMaxPartBytes) {
    return absl::InvalidArgumentError(absl::StrCat("message_bytes must be 1 to ", kMaxPartBytes));
  }
  if (options.max_keys_per_call == 0 || options.max_keys_per_call > 65536) {
    return absl::InvalidArgumentError("max_keys_per_call must be 1 to 65536");
  }
  if (options.max_open_fetches == 0 || options.max_open_stores == 0) {
    return absl::InvalidArgumentError("max_open_fetches and max_open_stores must not be 0");
  }
  if (options.lease <= absl::ZeroDuration() || options.store_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("lease and store_timeout must not be 0");
  }
  return absl::OkStatus();
}

// gRPC replaces a socket file without asking whether another server still answers on it.
absl::Status CheckUnixSocketIsFree(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path too long: ", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return absl::InternalError("no socket");
  const bool answers =
      connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(probe);
  if (!answers) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("another server listens on ", path));
}

void Configure(const ServerOptions& options, grpc::ServerBuilder* builder) {
  // A taken port is an error, not a second server behind the same port.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024);
  // Clients ping every 20 s to find out about dead peers.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder->AddChannelArgument(GRPC_ARG_TCP_READ_CHUNK_SIZE, 1 << 20);
  builder->AddChannelArgument(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, 4 << 20);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
  builder->SetMaxReceiveMessageSize(kMaxPartBytes + kMessageOverheadBytes);
  builder->SetMaxSendMessageSize(kMaxPartBytes + kMessageOverheadBytes);
}

class GrpcCacheServer : public CacheServer {
 public:
  GrpcCacheServer(const ServerOptions& options, const ServerParts& parts)
      : service_(options, parts) {}
  ~GrpcCacheServer() override { Stop(absl::ZeroDuration()); }

  absl::Status Listen(const ServerOptions& options) {
    grpc::EnableDefaultHealthCheckService(true);
    // Makes the linker keep the descriptor that reflection shows for the health service.
    CHECK(grpc::health::v1::HealthCheckRequest::descriptor() != nullptr);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    Configure(options, &builder);
    int port = 0;
    ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ServerCredentials> credentials,
                     MakeServerCredentials(options));
    builder.AddListeningPort(options.listen, credentials, &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      server_ = nullptr;
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", options.listen, ": taken, or not an address of ours"));
    }
    port_ = absl::StartsWith(options.listen, kUnixPrefix) ? 0 : port;
    service_.OnServing([health = server_->GetHealthCheckService()](bool serving) {
      health->SetServingStatus(serving);  // of the server as a whole
      health->SetServingStatus("tessera.cache.v1.KvCache", serving);
    });
    server_->GetHealthCheckService()->SetServingStatus("tessera.cache.v1.KvCache", true);
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  size_t open_fetches() const override { return service_.open_fetches(); }
  size_t open_stores() const override { return service_.open_stores(); }

  void Stop(absl::Duration grace) override {
    absl::MutexLock lock(&stop_mutex_);
    if (server_ == nullptr || stopped_) return;
    stopped_ = true;
    server_->GetHealthCheckService()->SetServingStatus(false);
    service_.EndWatches();
    server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    server_->Wait();
  }

 private:
  KvCacheService service_;
  std::unique_ptr<grpc::Server> server_;  // after service_: it goes first
  int port_ = 0;
  absl::Mutex stop_mutex_;
  bool stopped_ ABSL_GUARDED_BY(stop_mutex_) = false;
};

}  // namespace

std::string RandomInstanceId() {
  std::random_device random;
  return absl::StrCat(absl::Hex(random(), absl::kZeroPad8), absl::Hex(random(), absl::kZeroPad8));
}

absl::StatusOr<std::unique_ptr<CacheServer>> CacheServer::Start(const ServerOptions& options,
                                                                const ServerParts& parts) {
  CHECK(parts.store != nullptr && parts.counters != nullptr);
  RETURN_IF_ERROR(CheckOptions(options));
  if (absl::StartsWith(options.listen, kUnixPrefix)) {
    RETURN_IF_ERROR(
        CheckUnixSocketIsFree(std::string(absl::StripPrefix(options.listen, kUnixPrefix))));
  }
  KeepGrpc();
  auto server = std::make_unique<GrpcCacheServer>(options, parts);
  RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace tessera
