// What the names of the workers stand for: one of several addresses, as that of a scaled compose
// service or of a headless Kubernetes service, is several workers, which come and go.
#ifndef TESSERA_GATEWAY_ROUTER_WORKER_NAMES_H_
#define TESSERA_GATEWAY_ROUTER_WORKER_NAMES_H_

#include <cstddef>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

// The addresses of a host, as numbers.
struct HostAddresses {
  std::vector<std::string> v4;
  std::vector<std::string> v6;
};

// Asks the system, hosts file included, and waits for it. NOT_FOUND: no such host; UNAVAILABLE: it
// could not be asked.
absl::StatusOr<HostAddresses> FindAddresses(const std::string& host);

// Looks the names up again and again, on a thread of its own, and says each time what they all
// stand for. Every address of a name is a worker, "number:port". Of IPv4 and IPv6 the kind counts
// that the name has more addresses of, IPv4 when there are as many: a machine has often one of
// each. A name with just one of each, as localhost, goes on standing for itself until it was seen
// with more, and gRPC finds out which of the two answers. A lookup that fails changes nothing: a
// name server that is down takes no worker away.
class WorkerNames {
 public:
  using Lookup = std::function<absl::StatusOr<HostAddresses>(const std::string& host)>;
  // Called on that thread alone. Without doubles, in the order of the names.
  using FoundCallback = std::function<void(const std::vector<std::string>& addresses)>;

  static constexpr absl::Duration kInterval = absl::Seconds(2);
  // Of one name; what comes after them, in the order of the numbers, is left out.
  static constexpr size_t kMaxAddresses = 256;

  // `names` are "host:port"; numbers and what has no port are never looked up. Where all are
  // such, `found` is never called.
  WorkerNames(const std::vector<std::string>& names, Lookup lookup, FoundCallback found,
              absl::Duration interval = kInterval);

  // Waits for a lookup that runs; the system bounds it (resolv.conf: 5 s a try by default).
  ~WorkerNames();

  // Call once.
  void Start();

  // Waits until every name was looked up once, for `timeout` at most.
  void AwaitFirstLookup(absl::Duration timeout) const;

 private:
  struct Name {
    std::string host;  // empty: never looked up
    std::string port;
    std::vector<std::string> addresses;
    bool was_several = false;
  };

  void Run();
  void LookUp(Name& name);
  std::vector<std::string> Addresses() const;

  const Lookup lookup_;
  const FoundCallback found_;
  const absl::Duration interval_;
  std::vector<Name> names_;  // the thread's alone once it runs
  mutable absl::Mutex mutex_;
  bool looked_up_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ROUTER_WORKER_NAMES_H_
