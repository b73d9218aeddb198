// A connection to a Redis server, to measure beside. Includes hiredis: only for a bench's .cc file.
#ifndef TESSERA_TESTS_BENCH_REDIS_H_
#define TESSERA_TESTS_BENCH_REDIS_H_

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/types/span.h"
#include "glog/logging.h"

namespace tessera::bench {

// Whatever goes wrong ends the program. For one thread.
class RedisConnection {
 public:
  explicit RedisConnection(const std::string& socket) : context_(redisConnectUnix(socket.c_str())) {
    CheckConnected();
  }
  explicit RedisConnection(int port) : context_(redisConnect("127.0.0.1", port)) {
    CheckConnected();
  }

  // Bytes of the value; 0 when there is none. The value has been read into memory by then.
  uint64_t Get(std::string_view key) {
    const Reply reply = Call("GET %b", key.data(), key.size());
    return reply->type == REDIS_REPLY_STRING ? reply->len : 0;
  }

  void Set(std::string_view key, absl::Span<const std::byte> value) {
    const Reply reply = Call("SET %b %b", key.data(), key.size(), value.data(), value.size());
    CHECK_EQ(reply->type, REDIS_REPLY_STATUS) << reply->str;
  }

 private:
  struct FreeContext {
    void operator()(redisContext* context) const { redisFree(context); }
  };
  struct FreeReply {
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
  };
  using Reply = std::unique_ptr<redisReply, FreeReply>;

  void CheckConnected() const { CHECK(context_ != nullptr && context_->err == 0); }

  template <typename... Arguments>
  Reply Call(const char* format, Arguments... arguments) {
    Reply reply(static_cast<redisReply*>(redisCommand(context_.get(), format, arguments...)));
    CHECK(reply != nullptr) << context_->errstr;
    return reply;
  }

  std::unique_ptr<redisContext, FreeContext> context_;
};

// A port that nobody listens on now.
inline int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  PCHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0);
  PCHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  close(fd);
  return ntohs(address.sin_port);
}

}  // namespace tessera::bench

#endif  // TESSERA_TESTS_BENCH_REDIS_H_
