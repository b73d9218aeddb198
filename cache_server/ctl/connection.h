// Calls to one cache server.
#ifndef TESSERA_CACHE_SERVER_CTL_CONNECTION_H_
#define TESSERA_CACHE_SERVER_CTL_CONNECTION_H_

#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/chunk/key.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/ctl/interrupt.h"
#include "proto/kv_cache.grpc.pb.h"

namespace tessera::ctl {

// Most keys of one call: every server takes as many.
inline constexpr size_t kKeysPerCall = 256;

class Connection {
 public:
  using Stub = cache::v1::KvCache::Stub;

  // Makes no connection before the first call; each call ends after `timeout`, or when `interrupt`
  // says so (null: it goes on). Errors: those of MakeChannel and ReadToken.
  static absl::StatusOr<std::unique_ptr<Connection>> Make(const CacheAddress& address,
                                                          absl::Duration timeout,
                                                          Interrupt* interrupt);

  const CacheAddress& address() const { return address_; }
  absl::Duration timeout() const { return timeout_; }
  Stub* stub() const { return stub_.get(); }

  // One call with an answer. Errors: the server's, in words that say what to change.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request) const {
    OpenCall call(*this, timeout_);
    Response response;
    const grpc::Status status = (stub_.get()->*method)(call.context(), request, &response);
    if (!status.ok()) return Explain(status);
    return response;
  }

  // What a call ended with, as one line that says what to change.
  absl::Status Explain(const grpc::Status& status) const;

  // All pages of a List, one after the other, until `page` says false.
  absl::Status List(cache::v1::ListRequest request,
                    const std::function<bool(const cache::v1::ListResponse&)>& page) const;

  // The context of a call while it is open: deadline, token, and the end by Ctrl-C.
  class OpenCall {
   public:
    OpenCall(const Connection& connection, absl::Duration timeout);
    ~OpenCall();
    grpc::ClientContext* context() { return &context_; }

   private:
    Interrupt* const interrupt_;
    grpc::ClientContext context_;
  };

 private:
  Connection(const CacheAddress& address, absl::Duration timeout, Interrupt* interrupt)
      : address_(address), timeout_(timeout), interrupt_(interrupt) {}

  const CacheAddress address_;
  const absl::Duration timeout_;
  Interrupt* const interrupt_;
  std::string token_;
  std::unique_ptr<Stub> stub_;
};

// Puts up to kKeysPerCall keys in each of a row of requests.
template <typename Request>
std::vector<Request> InBatches(absl::Span<const ChunkKey> keys) {
  std::vector<Request> requests;
  for (size_t first = 0; first < keys.size(); first += kKeysPerCall) {
    Request& request = requests.emplace_back();
    for (const ChunkKey& key : keys.subspan(first, kKeysPerCall)) {
      request.add_keys(std::string(key.AsBytes()));
    }
  }
  return requests;
}

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_CONNECTION_H_
