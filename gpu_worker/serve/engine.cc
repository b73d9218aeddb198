#include "gpu_worker/serve/engine.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace tessera {
namespace {

absl::Status ShuttingDown() { return absl::UnavailableError("the worker is shutting down"); }

}  // namespace

class Engine::Underway {
 public:
  Underway(Engine* engine, std::shared_ptr<CancelFlag> flag)
      : engine_(*engine), flag_(std::move(flag)) {
    absl::MutexLock lock(&engine_.mutex_);
    engine_.underway_.push_back(flag_);
    if (engine_.stopping_) flag_->Set();
  }
  ~Underway() {
    absl::MutexLock lock(&engine_.mutex_);
    auto& all = engine_.underway_;
    all.erase(std::find(all.begin(), all.end(), flag_));
  }
  Underway(const Underway&) = delete;
  Underway& operator=(const Underway&) = delete;

 private:
  Engine& engine_;
  const std::shared_ptr<CancelFlag> flag_;
};

Engine::Engine(Decoder* decoder, Blender* blender, ChunkWriter* writer,
               const EngineOptions& options)
    : decoder_(*decoder),
      blender_(*blender),
      writer_(*writer),
      options_(options),
      queue_(options.queue, kMostChunks),
      thread_([this] { Work(); }) {}

Engine::~Engine() {
  stopping_ = true;
  queue_.Close();
  {
    absl::MutexLock lock(&mutex_);
    for (const std::shared_ptr<CancelFlag>& flag : underway_) flag->Set();
  }
  thread_.join();
  decoder_.SetPause(nullptr);
}

template <typename Task>
absl::Status Engine::Push(std::unique_ptr<Task> work) {
  work->submitted = absl::Now();
  if (stopping_) return ShuttingDown();
  if (!queue_.TryPush(std::move(work))) {
    return absl::ResourceExhaustedError("the worker's queue is full: try again later");
  }
  return absl::OkStatus();
}

absl::Status Engine::Submit(std::unique_ptr<Generation> generation) {
  return Push(std::move(generation));
}

absl::Status Engine::Submit(std::unique_ptr<ChunkWork> chunk) { return Push(std::move(chunk)); }

void Engine::Work() {
  decoder_.SetPause([this] { DecodeBetweenLayers(); });
  auto fits = [this](const Generation& generation) { return HasRoomFor(generation); };
  while (true) {
    if (std::unique_ptr<Generation> next = queue_.TryPopGeneration(fits)) {
      Begin(std::move(next));
      continue;
    }
    if (chunk_ == nullptr) {
      if (std::unique_ptr<ChunkWork> next = queue_.TryPopChunk()) {
        chunk_ = std::make_unique<ChunkTask>(std::move(next), &blender_, &writer_);
      }
    }
    if (chunk_ != nullptr) StepChunk();
    if (!runs_.empty()) {
      Decode();
    } else if (chunk_ == nullptr && !queue_.AwaitWork()) {
      return;
    }
  }
}

bool Engine::HasRoomFor(const Generation& generation) const {
  if (runs_.empty()) return true;
  if (runs_.size() >= options_.max_running) return false;
  int64_t free = options_.kv_tokens;
  for (const auto& run : runs_) free -= GenerationRun::KvTokens(run->generation());
  return GenerationRun::KvTokens(generation) <= free;
}

void Engine::Begin(std::unique_ptr<Generation> generation) {
  if (stopping_) return generation->listener->OnFinished(ShuttingDown());
  if (generation->cancelled->IsSet()) {
    return generation->listener->OnFinished(absl::CancelledError("cancelled while waiting"));
  }
  auto run = std::make_unique<GenerationRun>(std::move(generation), &decoder_, &blender_, &writer_,
                                             &stopping_);
  const Underway underway(this, run->generation().cancelled);
  if (run->Start()) runs_.push_back(std::move(run));
}

void Engine::Decode() {
  const absl::Time start = absl::Now();
  std::erase_if(runs_, [](const auto& run) { return !run->StillWanted(); });
  if (runs_.empty()) return;
  std::vector<DecodeRow> rows;
  for (const auto& run : runs_) rows.push_back(run->NextRow());
  const Activations logits = decoder_.DecodeRows(rows);
  size_t row = 0;
  std::erase_if(runs_, [&](const auto& run) {
    return !run->Advance(absl::MakeConstSpan(logits->Row(row++), logits->cols));
  });
  decoded_ = absl::Now();
  step_ = decoded_ - start;
}

void Engine::DecodeBetweenLayers() {
  if (!runs_.empty() && absl::Now() - decoded_ >= step_) Decode();
}

void Engine::StepChunk() {
  bool more = false;
  if (stopping_) {
    chunk_->Fail(ShuttingDown());
  } else if (chunk_->work().cancelled->IsSet()) {
    chunk_->Fail(absl::CancelledError("the request was cancelled"));
  } else {
    const Underway underway(this, chunk_->work().cancelled);
    more = chunk_->Step();
  }
  if (!more) chunk_.reset();
}

}  // namespace tessera
