// What the HTTP server asks of the code that answers requests, and what it lends to it.
//
// One request's life: the server calls Handler::Handle with the request and a Reply. The handler
// either answers before it returns, or returns a Work that answers later from any thread. The
// server keeps the Work until the Reply has had its last call; when the client leaves before, it
// calls Work::Cancel once, and still waits for that last call. So neither side ever holds the
// other's dangling pointer, and nothing is shared.
#ifndef TESSERA_GATEWAY_HTTP_HANDLER_H_
#define TESSERA_GATEWAY_HTTP_HANDLER_H_

#include <memory>
#include <string>
#include <string_view>

#include "gateway/http/message.h"

namespace tessera::http {

// Where the answer to one request goes. Either Send alone, or StartEvents, any number of Writes and
// Finish. Send and Finish are last calls: after them neither the Reply nor the Work may be touched.
// Calls may come from any thread, but only one at a time. Nothing waits for the client.
class Reply {
 public:
  virtual ~Reply() = default;

  // Answers with a whole response. A last call.
  virtual void Send(Response response) = 0;

  // Begins a stream of server-sent events with these further headers and status 200.
  virtual void StartEvents(Headers headers) = 0;

  // Appends bytes to the stream. False when they are dropped, because the client has left or reads
  // so slowly that its buffer is full; the stream is then lost and only Finish makes sense.
  virtual bool Write(std::string bytes) = 0;

  // Ends the stream. A last call.
  virtual void Finish() = 0;
};

// A request that is being answered.
class Work {
 public:
  virtual ~Work() = default;

  // The client has left: stop, and give the Reply its last call soon. Called at most once, perhaps
  // while the work is giving that last call on another thread. Must not wait.
  virtual void Cancel() = 0;
};

// Answers requests. Thread-safe; must outlive the server.
class Handler {
 public:
  virtual ~Handler() = default;

  // Answers `request` through `reply`, now (returning null) or later (returning the work). Called
  // on a network thread, so it must not wait.
  virtual std::unique_ptr<Work> Handle(Request request, Reply& reply) = 0;

  // The response to what the server refuses by itself: broken HTTP (400), a body over the limit
  // (413), headers over the limit (431), too many connections (503).
  virtual Response Refuse(int status, std::string_view message) = 0;
};

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_HANDLER_H_
