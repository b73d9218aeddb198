#include "tests/bench/stream_load.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace tessera::bench {
namespace {

constexpr std::string_view kEvent = "data: {";
constexpr std::string_view kEnd = "data: [DONE]\n\n\r\n0\r\n\r\n";
constexpr std::string_view kOk = "HTTP/1.1 200 ";
constexpr std::string_view kError = "data: {\"error\"";
constexpr std::string_view kComment = ": keep-alive\n\n";
// More of a stream's end is not looked at again.
constexpr size_t kTail = 64;

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

std::string RequestOf(const std::string& id, const std::string& body) {
  return absl::StrCat("POST /v1/completions HTTP/1.1\r\nHost: bench\r\n",
                      "Content-Type: application/json\r\nX-Request-Id: ", id,
                      "\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
}

// A request is small, and the socket's buffer is empty.
void Send(int socket, const std::string& request) {
  PCHECK(send(socket, request.data(), request.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(request.size()));
}

// Appends what is there; false when nothing is.
bool Receive(int socket, int flags, std::string* text) {
  std::array<char, 16 << 10> bytes;
  const ssize_t got = recv(socket, bytes.data(), bytes.size(), flags);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  PCHECK(got >= 0);
  CHECK_GT(got, 0) << "the gateway closed a stream behind: " << *text;
  text->append(bytes.data(), static_cast<size_t>(got));
  return true;
}

}  // namespace

StreamLoad::StreamLoad(int port, size_t streams, const std::string& body, size_t tokens,
                       const StubClock* clock)
    : clock_(*clock),
      answer_tokens_(tokens),
      clients_(streams),
      epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  PCHECK(epoll_ >= 0);
  for (size_t slot = 0; slot < streams; ++slot) {
    Client& client = clients_[slot];
    client.socket = Connect(port);
    client.request = RequestOf(StubClock::IdOf(slot), body);
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
  client.events = 0;
  client.tail.clear();
  client.sent = Clock::now();
  Send(client.socket, client.request);
}

bool StreamLoad::Read(size_t slot, std::vector<Ttft>* samples) {
  Client& client = clients_[slot];
  const bool head = client.tail.empty();
  if (!Receive(client.socket, MSG_DONTWAIT, &client.tail)) return false;
  const Clock::time_point now = Clock::now();
  const std::string_view tail = client.tail;
  CHECK(!head || tail.starts_with(kOk)) << tail;
  CHECK(tail.find(kError) == tail.npos) << tail;
  const size_t events = Count(tail, kEvent);
  if (events > 0 && client.events == 0) {
    samples->push_back(clock_.Measure(slot, client.sent, now));
  }
  client.events += events;
  const bool ended = tail.ends_with(kEnd);
  if (ended) {
    CHECK_EQ(client.events, answer_tokens_ + 1) << "an answer is not whole";
    tokens_ += answer_tokens_;
  }
  // Nothing that was counted stays; what may be the beginning of something does. Never is all of it
  // cut off, for an empty tail is that of a new stream.
  const size_t last = tail.rfind(kEvent);
  const size_t counted = last == tail.npos ? 0 : last + 1;
  client.tail.erase(0, std::max(counted, tail.size() - std::min(tail.size(), kTail)));
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
        --asking;
      }
    }
  }
  return samples;
}

IdleStreams::~IdleStreams() {
  for (const int socket : sockets_) close(socket);
}

void IdleStreams::Open(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    sockets_.push_back(Connect(port_));
    Send(sockets_.back(), RequestOf(absl::StrCat("idle-", sockets_.size()), body_));
    std::string text;
    while (Count(text, kEvent) == 0) Receive(sockets_.back(), 0, &text);
    CHECK(std::string_view(text).starts_with(kOk)) << text;
    CHECK(text.find(kError) == text.npos) << text;
  }
}

size_t IdleStreams::Drain() {
  size_t comments = 0;
  for (const int socket : sockets_) {
    std::string text;
    while (Receive(socket, MSG_DONTWAIT, &text)) continue;
    CHECK_EQ(Count(text, "data:"), 0u) << text;
    comments += Count(text, kComment);
  }
  return comments;
}

}  // namespace tessera::bench
