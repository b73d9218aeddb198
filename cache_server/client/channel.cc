#include "cache_server/client/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "cache_server/client/request_id.h"
#include "cache_server/transfer/keep_grpc.h"
#include "cache_server/transfer/slice_wire.h"

namespace tessera {
namespace {

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const CacheAddress& address) {
  if (address.cert_file.empty() != address.key_file.empty()) {
    return absl::InvalidArgumentError("a client certificate needs its key file, and a key its own");
  }
  if (address.ca_file.empty()) {
    if (!address.cert_file.empty()) {
      return absl::InvalidArgumentError(
          "a client certificate is for TLS: name the CA file to trust too");
    }
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions options;
  ASSIGN_OR_RETURN(options.pem_root_certs, ReadSmallFile(address.ca_file, "CA"));
  if (!address.cert_file.empty()) {
    ASSIGN_OR_RETURN(options.pem_cert_chain, ReadSmallFile(address.cert_file, "certificate"));
    ASSIGN_OR_RETURN(options.pem_private_key, ReadSmallFile(address.key_file, "key"));
  }
  return grpc::SslCredentials(options);
}

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  // Each channel has its own connection: a small question does not wait behind a megabyte of KV.
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
  return arguments;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const CacheAddress& address) {
  if (address.address.empty()) {
    return absl::InvalidArgumentError("no address of a cache server: give host:port or unix:/path");
  }
  KeepGrpc();
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> credentials,
                   MakeCredentials(address));
  return grpc::CreateCustomChannel(address.address, credentials, Arguments());
}

absl::StatusOr<std::string> ReadToken(const CacheAddress& address) {
  if (address.token_file.empty()) return std::string();
  return ReadTokenFile(address.token_file);
}

void AddRequestId(const std::string& request_id, grpc::ClientContext* context) {
  if (IsSendableId(request_id)) context->AddMetadata("x-request-id", request_id);
}

void AddToken(const std::string& token, grpc::ClientContext* context) {
  if (!token.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", token));
}

}  // namespace tessera
