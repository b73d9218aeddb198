#include "tests/gateway/chunks/cache_bed.h"

#include <cstddef>

#include "tests/cache_server/testing/shared_server.h"

namespace tessera {
namespace {

class SharedCacheBed final : public CacheBed {
 public:
  explicit SharedCacheBed(const std::string& token) {
    server_.grpc_options.token = token;
    server_.Start();
  }

  const std::string& address() const override { return server_.address(); }
  void Stop() override { server_.Stop(); }
  void StartAgain() override { server_.Start(); }

  void Damage(const std::string& key) override {
    const auto chunk_key = ChunkKey::FromBytes(key);
    CHECK(chunk_key.ok());
    const auto found = server_.store().GetFast(*chunk_key);
    CHECK(found.ok()) << found.status();
    const auto at = found->handle.slice(0).data() - server_.memory().data();
    server_.memory().mutable_data()[at] ^= std::byte{1};
  }

 private:
  testing::SharedServer server_;
};

}  // namespace

std::unique_ptr<CacheBed> CacheBed::Start(const std::string& token) {
  return std::make_unique<SharedCacheBed>(token);
}

}  // namespace tessera
