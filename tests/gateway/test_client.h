// A small blocking HTTP client, so that tests see the very bytes that the server sends.
#ifndef TESSERA_TESTS_GATEWAY_TEST_CLIENT_H_
#define TESSERA_TESTS_GATEWAY_TEST_CLIENT_H_

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct ClientResponse {
  int status = 0;
  // Names in lower case.
  std::map<std::string, std::string> headers;
  std::string body;
};

// One connection to 127.0.0.1. Every read gives up after 30 seconds, so that a broken server fails
// a test instead of hanging it. Not thread-safe.
class TestClient {
 public:
  explicit TestClient(int port);
  virtual ~TestClient();
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;

  // Sends bytes as they are; false when the server has closed.
  bool Send(std::string_view bytes);
  // Sends a request with Host, Content-Length and these further header lines ("A: b\r\n").
  bool SendRequest(std::string_view method, std::string_view path, std::string_view body = {},
                   std::string_view header_lines = {});

  // One response with its whole body, chunked or not; nothing when the connection ended before.
  std::optional<ClientResponse> Receive(bool head_only = false);
  // SendRequest and Receive.
  std::optional<ClientResponse> Call(std::string_view method, std::string_view path,
                                     std::string_view body = {},
                                     std::string_view header_lines = {});

  // Reading a stream step by step: first the head (body stays empty), then the payload of every
  // event ("data: " and the blank line removed); nothing at the stream's regular end.
  std::optional<ClientResponse> ReceiveHead();
  std::optional<std::string> ReceiveEvent();

  // Waits until so many bytes have come, and leaves them to the next call; false when they do not.
  bool AwaitBytes(size_t count);
  // All bytes until the server closes.
  std::string ReceiveRest();

  // True when the server closes without another byte.
  bool ReceiveEnd();

  void Close();
  // Says that nothing more will be sent.
  void CloseSending();
  // Closes without a word: the server's side fails at its next read.
  void Reset();

 protected:
  // As send and recv: how many bytes, 0 at the end, below 0 on an error.
  virtual ssize_t SendSome(const char* bytes, size_t size);
  virtual ssize_t ReceiveSome(char* bytes, size_t size);
  int socket() const { return socket_; }

 private:
  bool Fill();
  std::optional<std::string> TakeLine();
  bool TakeChunk(std::string* out);

  int socket_ = -1;
  std::string buffer_;
  std::string events_;
};

// The payloads of all events in a stream's body.
std::vector<std::string> SplitEvents(std::string_view body);

}  // namespace tessera

#endif  // TESSERA_TESTS_GATEWAY_TEST_CLIENT_H_
