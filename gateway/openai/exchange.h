// What the API adds to every answer, whoever makes it.
#ifndef TESSERA_GATEWAY_OPENAI_EXCHANGE_H_
#define TESSERA_GATEWAY_OPENAI_EXCHANGE_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "gateway/http/handler.h"

namespace tessera::openai {

// Stands between a handler's own work and the server: as the work's Reply it adds headers and tells
// which status the client gets; as the server's Work it passes Cancel on.
class Exchange final : public http::Work, public http::Reply {
 public:
  // `reply` must outlive it. `on_status` is called once, on the thread that answers.
  Exchange(http::Headers headers, std::function<void(int)> on_status, http::Reply* reply)
      : headers_(std::move(headers)), on_status_(std::move(on_status)), reply_(*reply) {}

  // Before the server has this object.
  void set_work(std::unique_ptr<http::Work> work) { work_ = std::move(work); }

  void Cancel() override {
    if (work_ != nullptr) work_->Cancel();
  }

  void PromiseEvents(http::Headers headers, absl::Duration within) override {
    reply_.PromiseEvents(Added(std::move(headers)), within);
  }
  // This object may be gone when the last calls return.
  void Send(http::Response response) override {
    Tell(response.status);
    response.headers = Added(std::move(response.headers));
    reply_.Send(std::move(response));
  }
  void StartEvents(http::Headers headers) override {
    Tell(200);
    reply_.StartEvents(Added(std::move(headers)));
  }
  bool Write(std::string bytes) override { return reply_.Write(std::move(bytes)); }
  void Finish() override { reply_.Finish(); }

 private:
  void Tell(int status) {
    if (on_status_) std::exchange(on_status_, nullptr)(status);
  }

  // An added header replaces one of the same name.
  http::Headers Added(http::Headers headers) const {
    for (const auto& [name, value] : headers_) {
      std::erase_if(headers, [&name = name](const auto& header) { return header.first == name; });
      headers.emplace_back(name, value);
    }
    return headers;
  }

  const http::Headers headers_;
  std::function<void(int)> on_status_;
  http::Reply& reply_;
  std::unique_ptr<http::Work> work_;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_EXCHANGE_H_
