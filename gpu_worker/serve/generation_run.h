// One request's way from prompt to answers.
#ifndef TESSERA_GPU_WORKER_SERVE_GENERATION_RUN_H_
#define TESSERA_GPU_WORKER_SERVE_GENERATION_RUN_H_

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/steps.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/resident_prefixes.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/model/kv_memory.h"
#include "gpu_worker/serve/chunk_work.h"
#include "gpu_worker/serve/chunk_writer.h"
#include "gpu_worker/serve/generation.h"
#include "gpu_worker/serve/prompt_logprobs.h"
#include "gpu_worker/serve/sampler.h"
#include "gpu_worker/serve/scheduler.h"
#include "gpu_worker/serve/token_counts.h"

namespace tessera {

// What all requests of a worker use; all must outlive them.
struct RunParts {
  const Decoder* decoder = nullptr;
  Blender* blender = nullptr;
  ChunkWriter* writer = nullptr;
  KvPool* pool = nullptr;
  ResidentPrefixes* prefixes = nullptr;
  // Ends a run within one step when it turns true.
  const std::atomic<bool>* stopping = nullptr;
};

// Waits, prefills, decodes; may be preempted at any time, and then waits and prefills again and
// computes the rows of what it has generated as they were computed before: the listener notices
// nothing, and gets the same bits. Its answers (n) come from one prefill and share the prompt's
// whole blocks. Tells the listener all there is to tell, OnFinished last. On the thread that issues
// device work.
class GenerationRun {
 public:
  // Answers that decode at a time; the others follow as these end.
  static constexpr int64_t kMostAnswersAtATime = 8;
  // Rows of one answer in a decode step, after it was preempted.
  static constexpr int64_t kMostRowsAgain = 16;

  GenerationRun(std::unique_ptr<Generation> generation, const RunParts& parts);

  const Generation& generation() const { return *generation_; }
  Stage stage() const { return stage_; }
  bool ended() const { return ended_; }
  bool is_new() const { return is_new_; }  // its prefill has not had a step yet

  // Blocks that Start takes from those that are free or idle.
  int64_t BlocksToStart() const;
  // Begins its prefill. False: there are too few blocks; it goes on waiting.
  bool Start();
  // One step of its prefill; kDone: it decodes now, or has ended.
  StepState StepPrefill();
  // After kWaiting: when to take the next step at the latest.
  absl::Time waits_until() const { return prefill_steps_->waits_until(); }

  // After its prefill, once: the segments that should be computed alone and stored, for prompts to
  // come.
  std::vector<std::unique_ptr<ChunkWork>> TakeChunksAhead();

  // New blocks for the rows of the next decode step.
  int64_t BlocksToDecode() const;
  // Adds these rows. False: there are too few blocks; nothing was added.
  bool AddRows(std::vector<DecodeRow>* rows);
  // Takes the logits of its rows that want them, from row *row on, and moves *row behind them.
  void Advance(const DecodedLogits& logits, int64_t* row);

  // Blocks that Preempt gives back.
  int64_t BlocksHeld() const;
  void Preempt();

  // Ends it when nobody wants it any more.
  void EndIfUnwanted();
  void End(const absl::Status& status);

 private:
  // An answer under way.
  struct Answer {
    uint32_t index = 0;
    Sampler sampler;
    std::vector<uint32_t> tokens;
    int64_t in_kv = 0;  // of them, whose K and V are in the memory
    KvMemory kv;        // none until its first row is due
  };

  Decoder::OnRows MakeScorer();
  void OnPrefilled(Prefilled prefilled);
  // Begins as many answers as may decode at a time, from the prompt's logits.
  void BeginAnswers();
  // Samples one token; true: the answer goes on.
  bool Sample(const LogitsRow& logits, Answer& answer);
  int64_t RowsOf(const Answer& answer) const;
  bool MakeRoomFor(Answer& answer);
  bool Grow(int64_t slots, KvMemory& kv);

  const std::unique_ptr<Generation> generation_;
  const RunParts parts_;
  const std::vector<ChunkKey> prefix_keys_;
  const int64_t prompt_tokens_;
  int64_t answers_at_a_time_;
  Stage stage_ = Stage::kWaiting;
  bool ended_ = false;
  bool is_new_ = false;
  bool was_started_ = false;  // told the listener
  absl::Time started_;        // the first time
  absl::Duration prefill_;
  absl::Duration computed_;               // its steps together, without waiting for the cache
  absl::Duration loaded_;                 // waiting for it
  absl::Time last_step_;                  // its end
  bool waits_ = false;                    // since then
  std::unique_ptr<PromptScorer> scorer_;  // before prefill_steps_, which uses it
  int64_t scored_rows_ = 0;
  std::optional<Steps<absl::StatusOr<Prefilled>>> prefill_steps_;
  KvMemory prompt_kv_;
  std::vector<float> prompt_logits_;
  bool blended_ = false;
  TokenCounts counts_;
  bool wants_chunks_ = false;
  uint32_t next_answer_ = 0;   // the one to begin
  std::list<Answer> answers_;  // under way
  int64_t tokens_ = 0;         // sampled, of all answers
  int preemptions_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_GENERATION_RUN_H_
