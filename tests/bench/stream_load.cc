#include "tests/bench/stream_load.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace tessera::bench {
namespace {

constexpr std::string_view kEvent = "data: {";
constexpr std::string_view kEnd = "data: [DONE]\n\n\r\n0\r\n\r\n";
constexpr std::string_view kOk = "HTTP/1.1 200 ";

int Connect(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  PCHECK(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  const int on = 1;
  PCHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
  return fd;
}

size_t Count(std::string_view text, std::string_view what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) {
    ++count;
  }
  return count;
}

}  // namespace

StreamLoad::StreamLoad(int port, size_t streams, const std::string& body, const StubClock* clock)
    : clock_(*clock), clients_(streams), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  PCHECK(epoll_ >= 0);
  for (size_t slot = 0; slot < streams; ++slot) {
    Client& client = clients_[slot];
    client.socket = Connect(port);
    client.request = absl::StrCat("POST /v1/completions HTTP/1.1\r\nHost: bench\r\n",
                                  "Content-Type: application/json\r\nX-Request-Id: ",
                                  StubClock::IdOf(slot), "\r\nContent-Length: ", body.size(),
                                  "\r\n\r\n", body);
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.u64 = slot;
    PCHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, client.socket, &event) == 0);
  }
}

StreamLoad::~StreamLoad() {
  for (const Client& client : clients_) close(client.socket);
  close(epoll_);
}

void StreamLoad::Ask(Client& client) {
  client.asking = true;
  client.first_seen = false;
  client.tail.clear();
  client.sent = Clock::now();
  // A request is small, and the socket's buffer is empty.
  PCHECK(send(client.socket, client.request.data(), client.request.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(client.request.size()));
}

bool StreamLoad::Read(size_t slot, std::vector<Ttft>* samples) {
  Client& client = clients_[slot];
  std::array<char, 16 << 10> bytes;
  const ssize_t got = recv(client.socket, bytes.data(), bytes.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  PCHECK(got > 0) << "the gateway closed a stream";
  const Clock::time_point now = Clock::now();
  const bool head = client.tail.empty();
  client.tail.append(bytes.data(), static_cast<size_t>(got));
  if (head) CHECK_EQ(client.tail.compare(0, kOk.size(), kOk), 0) << client.tail;
  const size_t events = Count(client.tail, kEvent);
  if (events > 0 && !client.first_seen) {
    client.first_seen = true;
    samples->push_back(clock_.Measure(slot, client.sent, now));
  }
  tokens_ += events;
  const bool ended = std::string_view(client.tail).ends_with(kEnd);
  // Nothing that was counted stays; what may be the beginning of something does. Never all of it,
  // for an empty tail is that of a new stream.
  const size_t kept = events > 0 ? 1 : kEnd.size();
  const size_t last = client.tail.rfind(kEvent);
  const size_t from = last == std::string::npos ? 0 : last + kept;
  client.tail.erase(0, std::max(from, client.tail.size() - std::min(client.tail.size(), size_t{64})));
  return ended;
}

std::vector<Ttft> StreamLoad::Run(absl::Duration ramp, absl::Duration duration) {
  std::vector<Ttft> samples;
  const Clock::time_point begin = Clock::now();
  const Clock::time_point end = begin + absl::ToChronoNanoseconds(duration);
  const auto pause = absl::ToChronoNanoseconds(ramp) / clients_.size();
  size_t begun = 0;
  size_t asking = 0;
  while (begun < clients_.size() || asking > 0) {
    while (begun < clients_.size() && Clock::now() >= begin + begun * pause) {
      Ask(clients_[begun++]);
      ++asking;
    }
    std::array<epoll_event, 64> ready;
    const int count =
        epoll_wait(epoll_, ready.data(), ready.size(), begun < clients_.size() ? 1 : 1000);
    for (int i = 0; i < count; ++i) {
      const size_t slot = ready[i].data.u64;
      if (!Read(slot, &samples)) continue;
      if (Clock::now() < end) {
        Ask(clients_[slot]);
      } else {
        clients_[slot].asking = false;
        --asking;
      }
    }
  }
  return samples;
}

}  // namespace tessera::bench
