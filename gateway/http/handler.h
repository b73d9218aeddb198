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

#include "absl/time/time.h"
#include "gateway/http/message.h"

namespace tessera::http {

// Where the answer to one request goes. Either Send alone, or StartEvents, any number of Writes and
// Finish; before either, at most one PromiseEvents. Send and Finish are last calls: after them
// neither the Reply nor the Work may be touched. Calls may come from any thread, but only one at a
// time. Nothing waits for the client.
class Reply {
 public:
  virtual ~Reply() = default;

  // For an answer whose first event may take long. If neither Send nor StartEvents has come within
  // this time, the stream begins with these headers, and idle comments keep it open. A later
  // StartEvents then does nothing, and of a later Send only the body goes out, as one last event
  // followed by "data: [DONE]": the client has seen its status 200 already.
  virtual void PromiseEvents(Headers headers, absl::Duration within) = 0;

  // Answers with a whole response. A last call.
  virtual void Send(Response response) = 0;

  // Begins a stream of server-sent events with these further headers and status 200.
  virtual void StartEvents(Headers headers) = 0;

  // Appends bytes to the stream; after whole events an idle comment may follow. False when they are
  // dropped, because the client has left or reads so slowly that its buffer is full; the stream is
  // then lost and only Finish makes sense.
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
