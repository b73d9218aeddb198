#include "gpu_worker/serve/engine.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/time/clock.h"
#include "glog/logging.h"

namespace tessera {
namespace {

absl::Status NoDeviceMemory() {
  return absl::ResourceExhaustedError(
      "the worker's device has no memory left for this: send a shorter prompt, or try again later");
}

absl::Status ShuttingDown() { return absl::UnavailableError("the worker is shutting down"); }

int64_t PoolBlocks(const EngineOptions& options, const Decoder& decoder) {
  // And one, for a copy of a prompt's last block.
  const int64_t longest = KvPool::BlocksFor(decoder.max_len()) + 1;
  if (options.kv_tokens == 0) return 8 * longest;
  return std::max(longest, options.kv_tokens / KvPool::kBlockSlots);
}

}  // namespace

// A request and what the scheduler knows it by.
struct Engine::Run {
  Run(uint64_t id, double rank, std::unique_ptr<Generation> of, const RunParts& parts, Inbox* inbox)
      : id(id),
        rank(rank),
        generation(std::move(of), parts),
        on_cancelled(*generation.generation().cancelled, [inbox] { inbox->Ring(); }) {}

  const uint64_t id;
  const double rank;
  bool is_queued = true;  // counts as one that waits, for the queue's bound
  bool is_loading = false;
  absl::Time loads_until;  // when is_loading
  GenerationRun generation;
  const CancelFlag::Hook on_cancelled;
};

Engine::Engine(const Decoder* decoder, Blender* blender, ChunkWriter* writer,
               const EngineOptions& options)
    : decoder_(*decoder),
      blender_(*blender),
      writer_(*writer),
      options_(options),
      inbox_(options.queue, kMostChunks),
      pool_(decoder->config(), PoolBlocks(options, *decoder), &decoder->memory()),
      prefixes_(&pool_, blender->config().tokens_per_piece) {
  blender_.set_on_progress([this] { inbox_.Ring(); });
  thread_ = std::thread([this] { Work(); });
}

Engine::~Engine() {
  stopping_ = true;
  inbox_.Close();
  {
    absl::MutexLock lock(&mutex_);
    for (const std::shared_ptr<CancelFlag>& flag : flags_) flag->Set();
  }
  thread_.join();
  blender_.set_on_progress(nullptr);
}

template <typename Task>
absl::Status Engine::Push(std::unique_ptr<Task> work) {
  work->submitted = absl::Now();
  if (stopping_) return ShuttingDown();
  if (!inbox_.TryPush(std::move(work))) {
    return absl::ResourceExhaustedError("the worker's queue is full: try again later");
  }
  return absl::OkStatus();
}

absl::Status Engine::Submit(std::unique_ptr<Generation> generation) {
  return Push(std::move(generation));
}

absl::Status Engine::Submit(std::unique_ptr<ChunkWork> chunk) { return Push(std::move(chunk)); }

EngineStats Engine::stats() const {
  absl::MutexLock lock(&mutex_);
  EngineStats stats = stats_;
  stats.waiting = std::max(stats.waiting, inbox_.waiting());
  stats.most_waiting = options_.queue;
  return stats;
}

void Engine::Work() {
  while (true) {
    if (Turn() || StepDrift()) continue;
    if (stopping_ && runs_.empty() && chunk_ == nullptr && inbox_.IsOver()) return;
    inbox_.Await(LoadsUntil());
  }
}

bool Engine::Turn() {
  TakeArrivals();
  for (const auto& run : runs_) run->generation.EndIfUnwanted();
  EraseEnded();
  const Batch batch = Schedule(State(), options_.scheduler);
  for (const uint64_t id : batch.preempted) {
    Find(id).generation.Preempt();
    ++preemptions_;
  }
  for (const uint64_t id : batch.started) Start(Find(id));
  if (!batch.decoded.empty()) Decode(batch.decoded);
  if (batch.prefilled.has_value()) StepPrefill(Find(*batch.prefilled));
  if (batch.chunk) StepChunk();
  EraseEnded();
  PublishStats();
  return !batch.preempted.empty() || !batch.decoded.empty() || batch.prefilled.has_value() ||
         batch.chunk;
}

void Engine::Hold(const std::shared_ptr<CancelFlag>& flag) {
  absl::MutexLock lock(&mutex_);
  flags_.push_back(flag);
  if (stopping_) flag->Set();
}

void Engine::LetGo(const std::shared_ptr<CancelFlag>& flag) {
  absl::MutexLock lock(&mutex_);
  flags_.erase(std::find(flags_.begin(), flags_.end(), flag));
}

void Engine::TakeArrivals() {
  const RunParts parts = {&decoder_, &blender_, &writer_, &pool_, &prefixes_, &stopping_};
  for (std::unique_ptr<Generation>& generation : inbox_.TakeGenerations()) {
    Hold(generation->cancelled);
    const double rank = RankOf(generation->priority, generation->submitted, options_.priority_step);
    runs_.push_back(
        std::make_unique<Run>(submitted_++, rank, std::move(generation), parts, &inbox_));
  }
  // Something may have come for those that load; a step will tell.
  const bool rung = inbox_.TakeRing();
  for (const auto& run : runs_) {
    if (rung || (run->is_loading && run->loads_until <= absl::Now())) run->is_loading = false;
  }
  if (rung || chunk_waits_until_ <= absl::Now()) chunk_waits_ = false;
  TakeChunk();
}

void Engine::TakeChunk() {
  const bool others = std::any_of(runs_.begin(), runs_.end(), [](const auto& run) {
    return run->generation.stage() != Stage::kDecoding;
  });
  if (chunk_ != nullptr || (others && !stopping_)) return;
  std::unique_ptr<ChunkWork> next = inbox_.TakeChunk();
  if (next == nullptr) return;
  Hold(next->cancelled);
  chunk_cancelled_.emplace(*next->cancelled, [this] { inbox_.Ring(); });
  chunk_ = std::make_unique<ChunkTask>(std::move(next), &blender_, &writer_);
  chunk_waits_ = false;
}

void Engine::EraseEnded() {
  std::erase_if(runs_, [this](const auto& run) {
    if (!run->generation.ended()) return false;
    if (run->is_queued) inbox_.NoLongerWaits();
    LetGo(run->generation.generation().cancelled);
    return true;
  });
}

absl::Time Engine::LoadsUntil() const {
  absl::Time first = absl::InfiniteFuture();
  for (const auto& run : runs_) {
    if (run->is_loading) first = std::min(first, run->loads_until);
  }
  if (chunk_waits_) first = std::min(first, chunk_waits_until_);
  return first;
}

SchedulerState Engine::State() const {
  SchedulerState state;
  for (const auto& run : runs_) {
    const GenerationRun& generation = run->generation;
    SchedulerEntry entry = {.id = run->id,
                            .priority = generation.generation().priority,
                            .rank = run->rank,
                            .stage = generation.stage()};
    if (entry.stage == Stage::kWaiting) {
      entry.blocks = generation.BlocksToStart();
    } else {
      entry.blocks = entry.stage == Stage::kDecoding ? generation.BlocksToDecode() : 0;
      entry.blocks_held = generation.BlocksHeld();
    }
    entry.is_new = generation.is_new();
    entry.is_loading = run->is_loading;
    state.entries.push_back(entry);
  }
  state.free_blocks = pool_.free_blocks() + prefixes_.idle_blocks();
  state.has_chunk = chunk_ != nullptr && !chunk_waits_;
  state.since_decode = since_decode_;
  state.decode_step = decode_step_;
  return state;
}

Engine::Run& Engine::Find(uint64_t id) {
  const auto run =
      std::find_if(runs_.begin(), runs_.end(), [id](const auto& other) { return other->id == id; });
  CHECK(run != runs_.end());
  return **run;
}

void Engine::Start(Run& run) {
  if (!run.generation.Start()) {
    // It goes on waiting for others to end. Where there are none, it would wait for ever.
    const bool others = std::any_of(runs_.begin(), runs_.end(), [](const auto& other) {
      return other->generation.stage() != Stage::kWaiting;
    });
    if (!others) {
      run.generation.End(absl::ResourceExhaustedError(
          "the worker's KV memory is too small for this request: send a shorter one"));
    }
    return;
  }
  run.is_loading = false;
  if (run.is_queued) inbox_.NoLongerWaits();
  run.is_queued = false;
}

void Engine::Decode(const std::vector<uint64_t>& ids) {
  const absl::Time start = absl::Now();
  std::vector<DecodeRow> rows;
  std::vector<GenerationRun*> decoded;
  for (const uint64_t id : ids) {
    GenerationRun& generation = Find(id).generation;
    if (generation.AddRows(&rows)) decoded.push_back(&generation);
  }
  if (rows.empty()) return;
  try {
    const DecodedLogits logits = decoder_.DecodeToSample(rows);
    int64_t row = 0;
    for (GenerationRun* generation : decoded) generation->Advance(logits, &row);
  } catch (const std::bad_alloc&) {
    // With one less the others may go on: nobody has got anything of this step.
    decoded.back()->End(NoDeviceMemory());
  }
  decode_step_ = absl::Now() - start;
  since_decode_ = absl::ZeroDuration();
}

namespace {

// A request for which the device has no memory left ends; others go on.
StepState StepOrEnd(GenerationRun& generation) {
  try {
    return generation.StepPrefill();
  } catch (const std::bad_alloc&) {
    generation.End(NoDeviceMemory());
    return StepState::kDone;
  }
}

}  // namespace

void Engine::StepPrefill(Run& run) {
  if (run.generation.stage() != Stage::kPrefilling) return;  // it could not start
  const absl::Time start = absl::Now();
  run.is_loading = StepOrEnd(run.generation) == StepState::kWaiting;
  // So that the time is the device's, and what decodes does not stand behind a whole prefill.
  decoder_.memory().Pace();
  if (run.is_loading) run.loads_until = run.generation.waits_until();
  for (std::unique_ptr<ChunkWork>& chunk : run.generation.TakeChunksAhead()) {
    // What is asked for comes first: there is always room for it.
    if (inbox_.chunks() >= kMostChunks / 2) break;
    chunk->submitted = absl::Now();
    inbox_.TryPush(std::move(chunk));
  }
  since_decode_ += absl::Now() - start;
}

void Engine::StepChunk() {
  const absl::Time start = absl::Now();
  const std::shared_ptr<CancelFlag> flag = chunk_->work().cancelled;
  StepState state = StepState::kDone;
  if (stopping_) {
    chunk_->Fail(ShuttingDown());
  } else if (flag->IsSet()) {
    chunk_->Fail(absl::CancelledError("the request was cancelled"));
  } else {
    try {
      state = chunk_->Step();
    } catch (const std::bad_alloc&) {
      chunk_->Fail(NoDeviceMemory());
    }
  }
  since_decode_ += absl::Now() - start;
  chunk_waits_ = state == StepState::kWaiting;
  if (chunk_waits_) chunk_waits_until_ = chunk_->waits_until();
  if (state != StepState::kDone) return;
  chunk_cancelled_.reset();
  chunk_.reset();
  LetGo(flag);
}

bool Engine::StepDrift() {
  return options_.drift != nullptr && !stopping_ && runs_.empty() && chunk_ == nullptr &&
         options_.drift->Step(stopping_);
}

void Engine::PublishStats() {
  EngineStats stats;
  for (const auto& run : runs_) {
    ++(run->generation.stage() == Stage::kWaiting ? stats.waiting : stats.running);
  }
  stats.preemptions = preemptions_;
  stats.kv_blocks = pool_.blocks();
  stats.free_blocks = pool_.free_blocks();
  stats.idle_blocks = prefixes_.idle_blocks();
  absl::MutexLock lock(&mutex_);
  stats_ = stats;
}

}  // namespace tessera
