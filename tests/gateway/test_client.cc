#include "tests/gateway/test_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "glog/logging.h"

namespace tessera {
namespace {

constexpr int kTimeoutSeconds = 30;
constexpr std::string_view kData = "data: ";

}  // namespace

TestClient::TestClient(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  PCHECK(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  timeval timeout = {.tv_sec = kTimeoutSeconds, .tv_usec = 0};
  PCHECK(setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0);
  PCHECK(setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) == 0);
}

TestClient::~TestClient() { Close(); }

void TestClient::Close() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
}

void TestClient::CloseSending() { PCHECK(shutdown(socket_, SHUT_WR) == 0); }

void TestClient::Reset() {
  const linger at_once = {.l_onoff = 1, .l_linger = 0};
  PCHECK(setsockopt(socket_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) == 0);
  Close();
}

ssize_t TestClient::SendSome(const char* bytes, size_t size) {
  return send(socket_, bytes, size, MSG_NOSIGNAL);
}

ssize_t TestClient::ReceiveSome(char* bytes, size_t size) { return recv(socket_, bytes, size, 0); }

bool TestClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = SendSome(bytes.data(), bytes.size());
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool TestClient::SendRequest(std::string_view method, std::string_view path, std::string_view body,
                             std::string_view header_lines) {
  std::string request(method);
  request.append(" ").append(path).append(" HTTP/1.1\r\nHost: test\r\n").append(header_lines);
  request.append("Content-Length: ").append(std::to_string(body.size())).append("\r\n\r\n");
  request.append(body);
  return Send(request);
}

bool TestClient::Fill() {
  char bytes[16 << 10];
  const ssize_t received = ReceiveSome(bytes, sizeof(bytes));
  if (received <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(received));
  return true;
}

std::optional<std::string> TestClient::TakeLine() {
  size_t end = buffer_.find("\r\n");
  while (end == std::string::npos) {
    if (!Fill()) return std::nullopt;
    end = buffer_.find("\r\n");
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

// Appends one chunk; leaves *out as it is for the last one.
bool TestClient::TakeChunk(std::string* out) {
  const std::optional<std::string> size_line = TakeLine();
  if (!size_line) return false;
  const size_t size = std::strtoul(size_line->c_str(), nullptr, 16);
  while (buffer_.size() < size + 2) {
    if (!Fill()) return false;
  }
  out->append(buffer_, 0, size);
  buffer_.erase(0, size + 2);
  return true;
}

std::optional<ClientResponse> TestClient::ReceiveHead() {
  std::optional<std::string> line = TakeLine();
  if (!line || line->size() < 12) return std::nullopt;
  ClientResponse response;
  response.status = std::atoi(line->c_str() + 9);
  while ((line = TakeLine()) && !line->empty()) {
    const size_t colon = line->find(": ");
    if (colon == std::string::npos) return std::nullopt;
    std::string name = line->substr(0, colon);
    for (char& c : name) c = static_cast<char>(tolower(c));
    response.headers[name] = line->substr(colon + 2);
  }
  if (!line) return std::nullopt;
  return response;
}

std::optional<ClientResponse> TestClient::Receive(bool head_only) {
  std::optional<ClientResponse> response = ReceiveHead();
  if (!response || head_only) return response;
  if (response->headers["transfer-encoding"] == "chunked") {
    while (true) {
      const size_t before = response->body.size();
      if (!TakeChunk(&response->body)) return std::nullopt;
      if (response->body.size() == before) return response;
    }
  }
  const size_t size = std::strtoul(response->headers["content-length"].c_str(), nullptr, 10);
  while (buffer_.size() < size) {
    if (!Fill()) return std::nullopt;
  }
  response->body = buffer_.substr(0, size);
  buffer_.erase(0, size);
  return response;
}

std::optional<ClientResponse> TestClient::Call(std::string_view method, std::string_view path,
                                               std::string_view body,
                                               std::string_view header_lines) {
  // A server may answer and close before it has read all: what it said still counts.
  SendRequest(method, path, body, header_lines);
  return Receive();
}

std::optional<std::string> TestClient::ReceiveEvent() {
  size_t end = events_.find("\n\n");
  while (end == std::string::npos) {
    const size_t before = events_.size();
    if (!TakeChunk(&events_) || events_.size() == before) return std::nullopt;
    end = events_.find("\n\n");
  }
  std::string event = events_.substr(0, end);
  events_.erase(0, end + 2);
  if (event.compare(0, kData.size(), kData) == 0) event.erase(0, kData.size());
  return event;
}

bool TestClient::AwaitBytes(size_t count) {
  while (buffer_.size() < count) {
    if (!Fill()) return false;
  }
  return true;
}

std::string TestClient::ReceiveRest() {
  while (Fill()) {
  }
  return std::exchange(buffer_, {});
}

bool TestClient::ReceiveEnd() {
  char byte = 0;
  return buffer_.empty() && ReceiveSome(&byte, 1) == 0;
}

std::vector<std::string> SplitEvents(std::string_view body) {
  std::vector<std::string> events;
  while (!body.empty()) {
    const size_t end = body.find("\n\n");
    std::string_view event = body.substr(0, end);
    if (event.substr(0, kData.size()) == kData) event.remove_prefix(kData.size());
    events.emplace_back(event);
    if (end == std::string_view::npos) break;
    body.remove_prefix(end + 2);
  }
  return events;
}

}  // namespace tessera
