// A real gRPC worker without a model: it answers with the end of the prompt.
#ifndef TESSERA_TESTS_GATEWAY_STUB_WORKER_H_
#define TESSERA_TESTS_GATEWAY_STUB_WORKER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gpu_worker/blend/resident_chunks.h"
#include "proto/worker.pb.h"

namespace tessera {

// What the next calls do; the default echoes.
struct StubBehaviour {
  // Events (Started is the first) after which a call waits for cancellation or Release; none: -1.
  int hold_after = -1;
  // Events after which a call fails with `failure`; none: -1.
  int fail_after = -1;
  absl::Status failure = absl::OkStatus();
  // What PrefillChunk answers, unless OK.
  absl::Status prefill_failure = absl::OkStatus();
  // PrefillChunk, or GetModel, waits for cancellation or Release.
  bool hold_prefill = false;
  bool hold_model = false;
  // Whether WatchChunks tells of chunks(); otherwise the stub is as a worker that does not know it.
  bool tells_chunks = false;
  // How long a Generate call takes before its first event, and before each token but the first.
  absl::Duration prefill_time = absl::ZeroDuration();
  absl::Duration token_time = absl::ZeroDuration();
  // Called with a call's request id when it has come, and just before its first event goes out.
  std::function<void(const std::string&)> on_received;
  std::function<void(const std::string&)> on_started;
};

// Serves on a free port of 127.0.0.1. An answer is the last max_tokens tokens of the last segment,
// with reason LENGTH; when that segment is shorter, all of it and then the end token, with STOP. A
// stop token ends it too. Answer i of several lacks the first i of these tokens; answers take
// turns. Logprobs are a function of the ids.
// Every fourth prompt token counts as blended, for responses to have something to report.
// PrefillChunk stores kStubTokenBytes for each token, in pieces of 256, under SHA-256 keys of salt
// and ids; what it was given before counts as cached.
// Thread-safe.
inline constexpr uint64_t kStubTokenBytes = 100;

class StubWorker {
 public:
  virtual ~StubWorker() = default;

  // `eos` ends answers; port 0 takes a free one.
  static std::unique_ptr<StubWorker> Start(const std::string& model_name, uint32_t max_len,
                                           uint32_t vocab_size, uint32_t eos, int port = 0,
                                           const StubBehaviour& behaviour = {});

  virtual int port() const = 0;
  std::string address() const { return "127.0.0.1:" + std::to_string(port()); }

  virtual void Set(const StubBehaviour& behaviour) = 0;
  // What it says that it has in memory.
  virtual ResidentChunks& chunks() = 0;
  // Lets calls that wait go on, now and later.
  virtual void Release() = 0;
  // Ends as a process that is killed: connections break, whatever runs. Only destruction may
  // follow.
  virtual void Kill() = 0;

  virtual int calls() const = 0;
  virtual worker::v1::GenerateRequest last_request() const = 0;
  virtual int prefills() const = 0;
  virtual worker::v1::PrefillChunkRequest last_prefill() const = 0;
  // Waits until that many calls of both kinds were cancelled, or that many have begun; false when
  // it takes longer than 30 seconds.
  virtual bool AwaitCancelled(int count) const = 0;
  virtual bool AwaitCalls(int count) const = 0;
  virtual bool AwaitPrefills(int count) const = 0;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_GATEWAY_STUB_WORKER_H_
