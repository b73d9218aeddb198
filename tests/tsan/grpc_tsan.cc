// Tells ThreadSanitizer what gRPC promises at the edge of its C library, which Debian compiles
// without it: what was done before an operation was started is seen by who gets its tag, and what
// was done before a slice was made is seen by who destroys it. Linked and compiled as absl_tsan.cc.
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpcpp/impl/codegen/server_callback.h>
#include <sanitizer/tsan_interface.h>

#include "tests/tsan/real.h"

namespace {

using tessera::tsan::Real;

grpc_event Seen(grpc_event event) {
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

struct Slice {
  void (*destroy)(void*);
  void* user_data;
};

void DestroySlice(void* argument) {
  auto* slice = static_cast<Slice*>(argument);
  __tsan_acquire(slice->user_data);
  slice->destroy(slice->user_data);
  delete slice;
}

}  // namespace

extern "C" {

grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t nops, void* tag,
                                      void* reserved) {
  static constinit Real<decltype(grpc_call_start_batch)> real("grpc_call_start_batch");
  __tsan_release(tag);
  return real(call, ops, nops, tag, reserved);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline,
                                      void* reserved) {
  static constinit Real<decltype(grpc_completion_queue_next)> real("grpc_completion_queue_next");
  return Seen(real(queue, deadline, reserved));
}

grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag,
                                       gpr_timespec deadline, void* reserved) {
  static constinit Real<decltype(grpc_completion_queue_pluck)> real("grpc_completion_queue_pluck");
  return Seen(real(queue, tag, deadline, reserved));
}

grpc_slice grpc_slice_new_with_user_data(void* bytes, size_t size, void (*destroy)(void*),
                                         void* user_data) {
  static constinit Real<decltype(grpc_slice_new_with_user_data)> real(
      "grpc_slice_new_with_user_data");
  __tsan_release(user_data);
  return real(bytes, size, DestroySlice, new Slice{destroy, user_data});
}

}  // extern "C"

namespace grpc::internal {
namespace {

// Stands for a reactor while the library calls its OnCancel, and then ends the reaction where
// ThreadSanitizer sees it: the library's own count of running reactions is an atomic that it does
// not.
class CancelledReactor : public ServerReactor {
 public:
  CancelledReactor(ServerReactor* reactor, void* count) : reactor_(reactor), count_(count) {}

  void OnCancel() override {
    reactor_->OnCancel();
    __tsan_release(count_);
    delete this;
  }
  void OnDone() override {}
  bool InternalInlineable() override { return reactor_->InternalInlineable(); }

 private:
  ServerReactor* const reactor_;
  void* const count_;
};

}  // namespace

void ServerCallbackCall::CallOnCancel(ServerReactor* reactor) {
  static constinit Real<void(ServerCallbackCall*, ServerReactor*)> real(
      "_ZN4grpc8internal18ServerCallbackCall12CallOnCancelEPNS0_13ServerReactorE");
  real(this, new CancelledReactor(reactor, &callbacks_outstanding_));
}

// Who ends the last reaction of a call, perhaps within the library, sees what all others did.
void ServerCallbackCall::ScheduleOnDone(bool inline_ondone) {
  static constinit Real<void(ServerCallbackCall*, bool)> real(
      "_ZN4grpc8internal18ServerCallbackCall14ScheduleOnDoneEb");
  __tsan_acquire(&callbacks_outstanding_);
  real(this, inline_ondone);
}

}  // namespace grpc::internal
