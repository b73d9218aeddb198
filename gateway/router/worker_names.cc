#include "gateway/router/worker_names.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace tessera {
namespace {

bool IsNumber(const std::string& host) {
  std::array<unsigned char, sizeof(in6_addr)> address;
  return inet_pton(AF_INET, host.c_str(), address.data()) == 1 ||
         inet_pton(AF_INET6, host.c_str(), address.data()) == 1;
}

std::string NumberOf(const addrinfo& info) {
  std::array<char, NI_MAXHOST> text;
  const int failed = getnameinfo(info.ai_addr, info.ai_addrlen, text.data(), text.size(), nullptr,
                                 0, NI_NUMERICHOST);
  return failed == 0 ? text.data() : "";
}

}  // namespace

absl::StatusOr<HostAddresses> FindAddresses(const std::string& host) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int failed = getaddrinfo(host.c_str(), nullptr, &hints, &list);
  if (failed == EAI_NONAME || failed == EAI_NODATA) {
    return absl::NotFoundError(absl::StrCat("no host ", host));
  }
  if (failed != 0) return absl::UnavailableError(absl::StrCat(host, ": ", gai_strerror(failed)));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, freeaddrinfo);
  HostAddresses found;
  for (const addrinfo* info = list; info != nullptr; info = info->ai_next) {
    const std::string number = NumberOf(*info);
    if (number.empty()) continue;
    if (info->ai_family == AF_INET) found.v4.push_back(number);
    if (info->ai_family == AF_INET6) found.v6.push_back(number);
  }
  return found;
}

WorkerNames::WorkerNames(const std::vector<std::string>& names, Lookup lookup, FoundCallback found,
                         absl::Duration interval)
    : lookup_(std::move(lookup)), found_(std::move(found)), interval_(interval) {
  for (const std::string& name : names) {
    const size_t colon = name.rfind(':');
    Name& added = names_.emplace_back();
    added.addresses = {name};
    if (colon == std::string::npos || absl::StartsWith(name, "[")) continue;
    if (IsNumber(name.substr(0, colon))) continue;
    added.host = name.substr(0, colon);
    added.port = name.substr(colon + 1);
  }
}

WorkerNames::~WorkerNames() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void WorkerNames::Start() {
  const bool any = std::any_of(names_.begin(), names_.end(),
                               [](const Name& name) { return !name.host.empty(); });
  if (any) {
    thread_ = std::thread([this] { Run(); });
    return;
  }
  absl::MutexLock lock(&mutex_);
  looked_up_ = true;
}

void WorkerNames::AwaitFirstLookup(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&looked_up_), timeout);
}

void WorkerNames::Run() {
  while (true) {
    for (Name& name : names_) LookUp(name);
    found_(Addresses());
    absl::MutexLock lock(&mutex_);
    looked_up_ = true;
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval_)) return;
  }
}

void WorkerNames::LookUp(Name& name) {
  if (name.host.empty()) return;
  const absl::StatusOr<HostAddresses> found = lookup_(name.host);
  if (!found.ok() || (found->v4.empty() && found->v6.empty())) return;
  const bool one_machine = found->v4.size() == 1 && found->v6.size() == 1;
  if (one_machine && !name.was_several) return;
  const bool is_v4 = found->v4.size() >= found->v6.size();
  std::vector<std::string> numbers = is_v4 ? found->v4 : found->v6;
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  if (numbers.size() > kMaxAddresses) {
    LOG_EVENT_LIMITED(kWarning, "too_many_addresses")
        .With("worker", name.host)
        .With("addresses", numbers.size())
        .With("max", kMaxAddresses);
    numbers.resize(kMaxAddresses);
  }
  name.was_several = name.was_several || numbers.size() > 1;
  name.addresses.clear();
  for (const std::string& number : numbers) {
    name.addresses.push_back(is_v4 ? absl::StrCat(number, ":", name.port)
                                   : absl::StrCat("[", number, "]:", name.port));
  }
}

std::vector<std::string> WorkerNames::Addresses() const {
  std::vector<std::string> all;
  absl::flat_hash_set<std::string> seen;
  for (const Name& name : names_) {
    for (const std::string& address : name.addresses) {
      if (seen.insert(address).second) all.push_back(address);
    }
  }
  return all;
}

}  // namespace tessera
