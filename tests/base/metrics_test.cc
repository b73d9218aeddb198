#include "base/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

// More than the stack that the HTTP server asks for, as programs with CUDA's libraries have: all
// threads of this test carry it (base/thread_stack.cc).
thread_local volatile char thread_data[256 << 10];

// A socket on a free port of this machine, listening or not.
class Port {
 public:
  Port() : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    number_ = ntohs(address.sin_port);
  }
  ~Port() { Free(); }
  void Listen() { EXPECT_EQ(listen(socket_, 1), 0); }
  void Free() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }
  int number() const { return number_; }

 private:
  int socket_;
  int number_ = 0;
};

std::string Scrape(int port) {
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in address = {.sin_family = AF_INET,
                               .sin_port = htons(port),
                               .sin_addr = {htonl(INADDR_LOOPBACK)},
                               .sin_zero = {}};
  EXPECT_EQ(connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
  EXPECT_EQ(write(client, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char bytes[4096];
  for (ssize_t got = 0; (got = read(client, bytes, sizeof(bytes))) > 0;) {
    answer.append(bytes, static_cast<size_t>(got));
  }
  close(client);
  return answer;
}

TEST(MetricsTest, ServesSourcesAndHistograms) {
  thread_data[0] = 1;
  const auto metrics = Metrics::Make();
  int asked = 0;
  metrics->AddSource([&asked]() -> std::vector<MetricSample> {
    ++asked;
    return {{"test_level", "A level.", false, {{"tier", "a"}}, 1.5},
            {"test_level", "A level.", false, {{"tier", "b"}}, 2},
            {"test_events_total", "Events.", true, {}, static_cast<double>(asked)}};
  });
  LatencyHistogram* latency = metrics->AddLatency("test_seconds", "A time.", {{"call", "get"}});
  latency->Observe(absl::Milliseconds(3));
  Port port;
  port.Free();
  const absl::Status served = metrics->Serve(absl::StrCat("127.0.0.1:", port.number()));
  ASSERT_TRUE(served.ok()) << served;
  Scrape(port.number());
  const std::string text = Scrape(port.number());
  EXPECT_TRUE(absl::StrContains(text, "200 OK")) << text;
  EXPECT_TRUE(absl::StrContains(text, "test_level{tier=\"a\"} 1.5")) << text;
  EXPECT_TRUE(absl::StrContains(text, "test_level{tier=\"b\"} 2")) << text;
  EXPECT_TRUE(absl::StrContains(text, "test_events_total 2")) << text;
  EXPECT_TRUE(absl::StrContains(text, "test_seconds_bucket{call=\"get\",le=\"0.005\"} 1")) << text;
  EXPECT_TRUE(absl::StrContains(text, "test_seconds_bucket{call=\"get\",le=\"0.0025\"} 0")) << text;
  metrics->RemoveSources();
  EXPECT_FALSE(absl::StrContains(metrics->Text(), "test_level"));
}

TEST(MetricsTest, ATakenPortIsAnError) {
  Port port;
  port.Listen();
  const auto metrics = Metrics::Make();
  const absl::Status taken = metrics->Serve(absl::StrCat("127.0.0.1:", port.number()));
  EXPECT_EQ(taken.code(), absl::StatusCode::kUnavailable) << taken;
  EXPECT_EQ(metrics->Serve("nonsense:port").code(), absl::StatusCode::kUnavailable);
}

TEST(MetricsTest, HistogramsOfOtherBuckets) {
  const auto metrics = Metrics::Make();
  ValueHistogram* const tokens =
      metrics->AddHistogram("test:tokens", "How many.", {{"model", "m"}}, {1, 10});
  for (const double value : {1.0, 5.0, 100.0}) tokens->Observe(value);
  const std::string text = metrics->Text();
  for (const char* line :
       {"# TYPE test:tokens histogram", "test:tokens_count{model=\"m\"} 3",
        "test:tokens_sum{model=\"m\"} 106", "test:tokens_bucket{model=\"m\",le=\"1\"} 1",
        "test:tokens_bucket{model=\"m\",le=\"10\"} 2",
        "test:tokens_bucket{model=\"m\",le=\"+Inf\"} 3"}) {
    EXPECT_TRUE(absl::StrContains(text, line)) << line << " in " << text;
  }
}

}  // namespace
}  // namespace tessera
