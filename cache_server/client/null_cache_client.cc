#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache_server/client/cache_client.h"

namespace tessera {
namespace {

class NullFetchStream : public FetchStream {
 public:
  explicit NullFetchStream(size_t targets) : targets_(targets) {}
  std::vector<std::string> WaitForHeader() override { return std::vector<std::string>(targets_); }
  bool WaitForSlice(size_t, uint32_t) override { return false; }
  bool HeaderReady() override { return true; }
  bool SliceReady(size_t, uint32_t) override { return true; }
  absl::Time ready_by() override { return absl::InfiniteFuture(); }
  absl::Span<const std::byte> Slices(size_t, uint32_t, uint32_t) override { return {}; }
  bool LeaseHeld() override { return true; }
  void Cancel() override {}

 private:
  const size_t targets_;
};

class NullCacheClient : public CacheClient {
 public:
  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions&) override {
    return std::make_unique<NullFetchStream>(targets.size());
  }
  size_t Store(const std::vector<StoreSource>&, const CallOptions&) override { return 0; }
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys, const CallOptions&) override {
    return std::vector<bool>(keys.size(), true);
  }
  ClientCounters counters() const override { return {}; }
};

}  // namespace

std::unique_ptr<CacheClient> MakeNullCacheClient() { return std::make_unique<NullCacheClient>(); }

}  // namespace tessera
