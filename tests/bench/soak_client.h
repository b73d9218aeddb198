// What clients do to a cache server, all of it, with every byte checked.
#ifndef TESSERA_TESTS_BENCH_SOAK_CLIENT_H_
#define TESSERA_TESTS_BENCH_SOAK_CLIENT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/tier/tier.h"
#include "proto/kv_cache.grpc.pb.h"

namespace tessera::bench {

// What was done, by name. Thread-safe.
class SoakTally {
 public:
  void Add(const std::string& what, uint64_t count = 1);
  uint64_t count(const std::string& what) const;
  std::map<std::string, uint64_t> counts() const;

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, uint64_t> counts_ ABSL_GUARDED_BY(mutex_);
};

// What must never happen; each is counted under its name, and logged.
inline constexpr char kSoakViolation[] = "event=soak_violation";
inline constexpr char kWrongBytes[] = "wrong slices";
inline constexpr char kUnfinishedSeen[] = "unfinished pieces seen";
inline constexpr char kDeletedSeen[] = "deleted pieces seen";
inline constexpr char kFailedCalls[] = "calls that failed";
inline constexpr char kChecksumFailures[] = "client: checksum failures";

// The sizes of test piece `number`, which never change.
PieceShape SoakShape(uint32_t number);

// A stub with a connection of its own.
std::unique_ptr<cache::v1::KvCache::Stub> MakeSoakStub(const std::string& address);

struct SoakOptions {
  std::string address;
  bool shared_memory = true;
  // The server's.
  absl::Duration lease;
  // No two clients of a server have the same; below 8192.
  uint32_t seed = 0;
};

// For one thread. Each seed does other things, and always the same ones.
class SoakClient {
 public:
  SoakClient(SoakOptions options, SoakTally* tally);

  // Works until `*stop`, with one connection after the other.
  void Run(const std::atomic<bool>& stop);

 private:
  // A fetch of a run of pieces. The stream goes first, and with it who writes to the memory.
  struct Reading {
    std::vector<uint32_t> numbers;
    std::vector<std::vector<std::byte>> memory;  // empty: in place
    std::unique_ptr<FetchStream> stream;
  };

  void Connect();
  void Disconnect();
  // One kind of work, each as often as soaks want it.
  void DoSomething();

  // Over CacheClient.
  void Store();
  void FetchIntoMemory();
  void ReadInPlace();
  void Stall();
  void CancelFetch();

  // Over the stub.
  void Pin();
  void Unpin();
  void Prefetch();
  void Delete();
  void DeleteFresh();
  void List();
  void Watch();
  void Flush();
  void CutFetch();
  void StallFetch();
  void CutStore();

  Reading StartFetch(size_t most, bool in_place, absl::Duration timeout);
  void ReportWrong(uint32_t number, uint32_t layer, const std::string& how);
  // Compares the slices of one piece in place. False: the lease was lost.
  bool CheckInPlace(const Reading& reading, size_t target);
  // Those of them that the server has.
  std::vector<uint32_t> Present(const std::vector<uint32_t>& numbers);
  void CheckDeleted();

  // Numbers that follow each other, the lower ones more often.
  std::vector<uint32_t> PickRun(size_t most);
  // A number that nobody has had.
  uint32_t Fresh();
  bool Chance(double probability);
  template <typename Request>
  Request KeysOf(const std::vector<uint32_t>& numbers) const;
  template <typename Method, typename Request, typename Response>
  bool Call(const std::string& name, Method method, const Request& request, Response* response);

  const SoakOptions options_;
  SoakTally* const tally_;
  std::mt19937 random_;
  uint32_t fresh_ = 0;
  std::deque<uint32_t> deleted_;  // fresh ones that must never be seen again
  std::unique_ptr<CacheClient> client_;
  std::unique_ptr<cache::v1::KvCache::Stub> stub_;
};

}  // namespace tessera::bench

#endif  // TESSERA_TESTS_BENCH_SOAK_CLIENT_H_
