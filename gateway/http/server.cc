#include "gateway/http/server.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "boost/asio/as_tuple.hpp"
#include "boost/asio/awaitable.hpp"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/detached.hpp"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/strand.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "gateway/http/connection.h"
#include "gateway/http/cors.h"
#include "gateway/http/tls.h"

namespace tessera::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// Connections past the limit that are told so; past these too, they are closed unread.
constexpr size_t kRefusedConnections = 64;
// What a process needs beside connections: workers' channels, logs, event queues.
constexpr size_t kOtherDescriptors = 256;
constexpr auto kUse = asio::as_tuple(asio::use_awaitable);

// Splits "host:port" and resolves the host.
absl::StatusOr<tcp::endpoint> ParseEndpoint(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port) ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", listen, ": write host:port, such as 0.0.0.0:8000"));
  }
  std::string host = listen.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty() || host == "*") host = "0.0.0.0";
  error_code error;
  asio::io_context context;
  tcp::resolver resolver(context);
  const auto found = resolver.resolve(host, std::to_string(port), error);
  if (error || found.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", listen, ": unknown host ", host));
  }
  return found.begin()->endpoint();
}

// A connection is a descriptor, and so is much else in a process; the usual soft limit of 1024 is
// meant for programs that use select().
void RaiseDescriptorLimit(size_t connections) {
  const rlim_t wanted = connections + kRefusedConnections + kOtherDescriptors;
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < wanted) {
    LOG_EVENT(kWarning, "few_descriptors")
        .With("limit", limit.rlim_cur)
        .With("wanted", wanted)
        .With("max_connections", connections);
  }
}

class AsioServer final : public Server {
 public:
  AsioServer(const ServerOptions& options, Handler* handler)
      : options_(options),
        cors_(options.cors_origins),
        acceptor_(asio::make_strand(context_)),
        shared_{.options = &options_, .cors = &cors_, .handler = handler, .posting = &posting_} {}

  ~AsioServer() override { Stop(absl::ZeroDuration()); }

  absl::Status Start() {
    RETURN_IF_ERROR(Cors::Check(options_.cors_origins));
    if (!options_.tls_cert_file.empty() || !options_.tls_key_file.empty()) {
      ASSIGN_OR_RETURN(tls_, TlsContext::Load(options_.tls_cert_file, options_.tls_key_file));
      shared_.tls = tls_.get();
    }
    ASSIGN_OR_RETURN(const tcp::endpoint endpoint, ParseEndpoint(options_.listen));
    error_code error;
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", options_.listen, ": ",
                                                 absl::AsciiStrToLower(error.message())));
    }
    RaiseDescriptorLimit(options_.max_connections);
    port_ = acceptor_.local_endpoint(error).port();
    asio::co_spawn(acceptor_.get_executor(), Accept(), asio::detached);
    for (int i = 0; i < options_.threads; ++i) {
      threads_.emplace_back([this] { context_.run(); });
    }
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  std::string address() const override {
    return absl::StrCat(options_.listen.substr(0, options_.listen.rfind(':')), ":", port_);
  }

  size_t connections() const override {
    absl::MutexLock lock(&mutex_);
    return open_.size();
  }

  void Stop(absl::Duration drain) override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    asio::post(acceptor_.get_executor(), [this] {
      error_code ignored;
      acceptor_.close(ignored);
    });
    ForEachConnection([](Connection& connection) { connection.StopSoon(); });
    if (!WaitUntilEmpty(drain)) {
      ForEachConnection([](Connection& connection) { connection.StopNow(); });
      WaitUntilEmpty(absl::InfiniteDuration());
    }
    // Whoever made the last call of the last reply may still be on its way out of the executor,
    // which takes microseconds.
    while (posting_.load() != 0) std::this_thread::yield();
    guard_.reset();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  using Strand = asio::strand<asio::io_context::executor_type>;

  struct Open {
    Strand strand;
    Connection* connection;
  };

  asio::awaitable<void> Accept() {
    asio::steady_timer pause(acceptor_.get_executor());
    while (true) {
      Strand strand = asio::make_strand(context_);
      tcp::socket socket(strand);
      const auto [error] = co_await acceptor_.async_accept(socket, kUse);
      if (!acceptor_.is_open()) co_return;
      if (error) {
        // Mostly: no file descriptors left. Connections that end will free some.
        LOG_EVENT_LIMITED(kWarning, "accept_failed").With("error", error.message());
        pause.expires_after(std::chrono::milliseconds(100));
        co_await pause.async_wait(kUse);
        continue;
      }
      const size_t open = connections();
      if (open >= options_.max_connections + kRefusedConnections) continue;
      Spawn(std::move(strand), std::move(socket), open >= options_.max_connections);
    }
  }

  void Spawn(Strand strand, tcp::socket socket, bool refuse) {
    auto connection = std::make_unique<Connection>(std::move(socket), shared_, refuse);
    uint64_t id = 0;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      id = next_id_++;
      open_.emplace(id, Open{strand, connection.get()});
    }
    asio::co_spawn(strand, RunConnection(id, std::move(connection)), asio::detached);
  }

  asio::awaitable<void> RunConnection(uint64_t id, std::unique_ptr<Connection> connection) {
    co_await connection->Run();
    connection.reset();
    absl::MutexLock lock(&mutex_);
    open_.erase(id);
  }

  // Runs `call` on every open connection's own executor. A connection erases itself there too, so
  // one that is still listed when the call runs is alive.
  template <typename Call>
  void ForEachConnection(Call call) {
    absl::MutexLock lock(&mutex_);
    for (const auto& [id, open] : open_) {
      asio::post(open.strand, [this, call, id = id] {
        Connection* connection = nullptr;
        {
          absl::MutexLock lock(&mutex_);
          const auto found = open_.find(id);
          if (found != open_.end()) connection = found->second.connection;
        }
        if (connection != nullptr) call(*connection);
      });
    }
  }

  bool WaitUntilEmpty(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    auto empty = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return open_.empty(); };
    return mutex_.AwaitWithTimeout(absl::Condition(&empty), timeout);
  }

  const ServerOptions options_;
  const Cors cors_;
  std::unique_ptr<TlsContext> tls_;
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> guard_{context_.get_executor()};
  tcp::acceptor acceptor_;
  int port_ = 0;
  // Threads that are inside an executor of `context_` and not ours.
  std::atomic<int> posting_ = 0;
  ConnectionContext shared_;  // not changed once it listens
  std::vector<std::thread> threads_;

  mutable absl::Mutex mutex_;
  std::map<uint64_t, Open> open_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Listen(const ServerOptions& options,
                                                       Handler* handler) {
  auto server = std::make_unique<AsioServer>(options, handler);
  RETURN_IF_ERROR(server->Start());
  return server;
}

}  // namespace tessera::http
