// A cache client that passes everything on to another one: tests override what they want to see or
// change.
#ifndef TESSERA_TESTS_CACHE_SERVER_TESTING_FORWARDING_CLIENT_H_
#define TESSERA_TESTS_CACHE_SERVER_TESTING_FORWARDING_CLIENT_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache_server/client/cache_client.h"

namespace tessera {

class ForwardingClient : public CacheClient {
 public:
  explicit ForwardingClient(CacheClient* real) : real_(*real) {}

  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override {
    return real_.Fetch(std::move(targets), options);
  }
  size_t Store(const std::vector<StoreSource>& sources, const CallOptions& options) override {
    return real_.Store(sources, options);
  }
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys,
                                const CallOptions& options) override {
    return real_.FindMissing(keys, options);
  }
  ClientCounters counters() const override { return real_.counters(); }

 private:
  CacheClient& real_;
};

class ForwardingStream : public FetchStream {
 public:
  explicit ForwardingStream(std::unique_ptr<FetchStream> real) : real_(std::move(real)) {}

  std::vector<std::string> WaitForHeader() override { return real_->WaitForHeader(); }
  bool WaitForSlice(size_t target, uint32_t layer) override {
    return real_->WaitForSlice(target, layer);
  }
  bool HeaderReady() override { return real_->HeaderReady(); }
  bool SliceReady(size_t target, uint32_t layer) override {
    return real_->SliceReady(target, layer);
  }
  absl::Time ready_by() override { return real_->ready_by(); }
  absl::Span<const std::byte> Slices(size_t target, uint32_t first_layer,
                                     uint32_t layers) override {
    return real_->Slices(target, first_layer, layers);
  }
  bool LeaseHeld() override { return real_->LeaseHeld(); }
  void Cancel() override { real_->Cancel(); }

 private:
  const std::unique_ptr<FetchStream> real_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_CACHE_SERVER_TESTING_FORWARDING_CLIENT_H_
