#include "gpu_worker/serve/engine.h"

#include <utility>
#include <variant>

#include "absl/time/clock.h"
#include "gpu_worker/serve/generation_run.h"

namespace tessera {
namespace {

absl::Status ShuttingDown() { return absl::UnavailableError("the worker is shutting down"); }

}  // namespace

Engine::Engine(const Decoder* decoder, Blender* blender, ChunkWriter* writer, size_t capacity)
    : decoder_(*decoder),
      blender_(*blender),
      writer_(*writer),
      queue_(capacity, kMostChunks),
      thread_([this] { Work(); }) {}

Engine::~Engine() {
  stopping_ = true;
  queue_.Close();
  {
    absl::MutexLock lock(&mutex_);
    if (running_ != nullptr) running_->Set();
  }
  thread_.join();
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
  while (true) {
    if (chunk_ != nullptr) {
      const std::unique_ptr<Generation> generation = queue_.TryPopGeneration();
      generation != nullptr ? RunGeneration(*generation) : StepChunk();
      continue;
    }
    WorkQueue::Work next = queue_.Pop();
    if (auto* generation = std::get_if<std::unique_ptr<Generation>>(&next)) {
      RunGeneration(**generation);
    } else if (auto* chunk = std::get_if<std::unique_ptr<ChunkWork>>(&next)) {
      chunk_ = std::make_unique<ChunkTask>(std::move(*chunk), &blender_, &writer_);
    } else {
      return;
    }
  }
}

void Engine::SetRunning(std::shared_ptr<CancelFlag> cancelled) {
  absl::MutexLock lock(&mutex_);
  running_ = std::move(cancelled);
  if (stopping_ && running_ != nullptr) running_->Set();
}

void Engine::RunGeneration(Generation& generation) {
  if (stopping_) return generation.listener->OnFinished(ShuttingDown());
  if (generation.cancelled->IsSet()) {
    return generation.listener->OnFinished(absl::CancelledError("cancelled while waiting"));
  }
  SetRunning(generation.cancelled);
  GenerationRun(&generation, &decoder_, &blender_, &writer_, &stopping_).Run();
  SetRunning(nullptr);
}

void Engine::StepChunk() {
  bool more = false;
  if (stopping_) {
    chunk_->Fail(ShuttingDown());
  } else if (chunk_->work().cancelled->IsSet()) {
    chunk_->Fail(absl::CancelledError("the request was cancelled"));
  } else {
    SetRunning(chunk_->work().cancelled);
    more = chunk_->Step();
    SetRunning(nullptr);
  }
  if (!more) chunk_.reset();
}

}  // namespace tessera
