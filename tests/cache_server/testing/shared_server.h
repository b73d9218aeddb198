// A real server in the test's own process with both faces, gRPC and shared memory, over a memory
// tier that counts pins and a slower tier behind a gate.
#ifndef TESSERA_TESTS_CACHE_SERVER_TESTING_SHARED_SERVER_H_
#define TESSERA_TESTS_CACHE_SERVER_TESTING_SHARED_SERVER_H_

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cache_server/chunk/shared_memory.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/service/server.h"
#include "cache_server/service/shm_server.h"
#include "cache_server/store/chunk_store.h"
#include "glog/logging.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/test_ram_tier.h"
#include "tests/cache_server/testing/tier_doubles.h"

namespace tessera::testing {

// A socket path that no other test uses.
inline std::string NewSocketPath() {
  static std::atomic<int> count = 0;
  return absl::StrCat("/tmp/tessera_test_", getpid(), "_", count.fetch_add(1));
}

class SharedServer {
 public:
  explicit SharedServer(uint64_t memory_bytes = uint64_t{256} << 20) {
    grpc_options.listen = "127.0.0.1:0";
    shm_options.path = NewSocketPath();
    auto memory = SharedMemory::Create(memory_bytes, /*huge_pages=*/false);
    CHECK(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    RamTierOptions ram;
    ram.on_evicted = [this](const ChunkKey& key, EvictionReason) {
      absl::MutexLock lock(&mutex_);
      left_.insert(key);
    };
    std::vector<std::unique_ptr<Tier>> tiers;
    tiers.push_back(std::make_unique<WrappedTier>(MakeRamTier(memory_, ram), control));
    tiers.push_back(
        std::make_unique<WrappedTier>(MakeTestRamTier(uint64_t{16} << 20), slow_control));
    ChunkStoreOptions options;
    options.admission = AdmissionKind::kPinned;  // nothing goes down by itself
    store_ = std::make_unique<ChunkStore>(std::move(tiers), options, &events_);
  }

  ~SharedServer() { Stop(); }

  // Starts with the options; again on the same port and socket, if it ran before.
  void Start() {
    grpc_options.instance_id = RandomInstanceId();
    shm_options.instance_id = grpc_options.instance_id;
    if (offers_shm) grpc_options.shm_socket = shm_options.path;
    auto shm = ShmServer::Start(shm_options, memory_, store_.get());
    CHECK(shm.ok()) << shm.status();
    shm_ = *std::move(shm);
    auto server = CacheServer::Start(
        grpc_options,
        {.store = store_.get(), .events = &events_, .counters = &counters_, .shm = shm_.get()});
    CHECK(server.ok()) << server.status();
    server_ = *std::move(server);
    if (server_->port() != 0) grpc_options.listen = absl::StrCat("127.0.0.1:", server_->port());
  }

  // As a server that dies: whatever is open is cut.
  void Stop() {
    if (server_ != nullptr) server_->Stop(absl::ZeroDuration());
    server_ = nullptr;
    shm_ = nullptr;
  }

  const std::string& address() const { return grpc_options.listen; }
  SharedMemory& memory() { return *memory_; }
  ChunkStore& store() { return *store_; }
  ShmServer& shm() { return *shm_; }
  uint64_t used_bytes() const { return store_->Stats()[0].used_bytes; }

  // Puts a test piece into the memory tier, or only into the slower one.
  void Put(uint32_t number, PieceShape shape) {
    const absl::Status put = PutTestPiece(store_.get(), number, shape);
    CHECK(put.ok()) << put;
  }
  void PutBelow(uint32_t number, PieceShape shape) {
    const absl::Status put = PutTestPiece(store_->tiers()[1].get(), number, shape);
    CHECK(put.ok()) << put;
  }

  // Flips a bit of a stored piece where it lies.
  void Damage(uint32_t number, uint32_t layer) {
    const auto found = store_->GetFast(TestKey(number));
    CHECK(found.ok()) << found.status();
    const auto at = found->handle.slice(layer).data() - memory_->data();
    memory_->mutable_data()[at] ^= std::byte{1};
  }

  // Waits until a piece has left the memory tier.
  bool WaitUntilGone(uint32_t number, absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    auto gone = [this, number]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return left_.contains(TestKey(number));
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&gone), timeout);
  }

  // Only the face for shared memory ends.
  void StopShm() { shm_ = nullptr; }

  // To be set before Start.
  bool offers_shm = true;  // whether clients are told of it
  ServerOptions grpc_options;
  ShmServerOptions shm_options;
  const std::shared_ptr<TierControl> control = std::make_shared<TierControl>();
  const std::shared_ptr<TierControl> slow_control = std::make_shared<TierControl>();

 private:
  absl::Mutex mutex_;
  absl::flat_hash_set<ChunkKey> left_ ABSL_GUARDED_BY(mutex_);
  KeyEvents events_;
  TransportCounters counters_;
  std::shared_ptr<SharedMemory> memory_;
  std::unique_ptr<ChunkStore> store_;
  std::unique_ptr<ShmServer> shm_;
  std::unique_ptr<CacheServer> server_;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TESTING_SHARED_SERVER_H_
