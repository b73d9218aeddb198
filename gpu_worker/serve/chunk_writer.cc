#include "gpu_worker/serve/chunk_writer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tessera {
namespace {

constexpr absl::Duration kStoreTimeout = absl::Seconds(60);
constexpr absl::Duration kStopTimeout = absl::Seconds(5);
// Requests whose chunks may wait; the bytes are the bound that is met first.
constexpr size_t kMostJobs = 1024;

}  // namespace

ChunkWriter::ChunkWriter(CacheClient* client, int64_t tokens_per_piece, int64_t most_bytes)
    : client_(*client),
      tokens_per_piece_(tokens_per_piece),
      most_bytes_(most_bytes),
      queue_(kMostJobs),
      thread_([this] { Work(); }) {}

ChunkWriter::~ChunkWriter() {
  stop_by_ms_ = absl::ToUnixMillis(absl::Now() + kStopTimeout);
  queue_.Close();
  thread_.join();
}

ChunkWriter::Room ChunkWriter::TryReserve(int64_t bytes) {
  Room room;
  if (pending_bytes_.fetch_add(bytes) + bytes > most_bytes_) {
    pending_bytes_ -= bytes;
    return room;
  }
  room.pending_ = &pending_bytes_;
  room.bytes_ = bytes;
  return room;
}

void ChunkWriter::Write(std::vector<FreshChunk> chunks, const std::string& request_id) {
  Job job;
  job.request_id = request_id;
  for (FreshChunk& fresh : chunks) {
    Room room = TryReserve(fresh.chunk->bytes());
    if (room.bytes() == 0) {
      ++dropped_;
      continue;
    }
    job.rooms.push_back(std::move(room));
    job.chunks.push_back(std::move(fresh));
  }
  if (job.chunks.empty()) return;
  const size_t count = job.chunks.size();
  if (!queue_.TryPush(std::move(job))) dropped_ += count;
}

void ChunkWriter::Store(AwaitedStore store, Room room) {
  Job job;
  job.rooms.push_back(std::move(room));
  job.awaited = std::move(store);
  if (queue_.TryPush(std::move(job))) return;
  job.awaited.done(
      absl::ResourceExhaustedError("too many chunks wait to be stored: try again later"));
}

void ChunkWriter::Work() {
  while (std::optional<Job> job = queue_.Pop()) {
    const absl::Duration left = absl::FromUnixMillis(stop_by_ms_) - absl::Now();
    const absl::Duration timeout = std::min(kStoreTimeout, left);
    if (job->awaited.done != nullptr) {
      RunAwaited(*job, timeout);
    } else if (timeout > absl::ZeroDuration()) {
      client_.Store(SourcesOf(job->chunks, tokens_per_piece_), {timeout, job->request_id});
    } else {
      dropped_ += job->chunks.size();
    }
  }
}

// What Store counts is what is new to the cache; only asking tells what it has. The room is free
// again before anyone can know that the store is done.
void ChunkWriter::RunAwaited(Job& job, absl::Duration timeout) {
  const AwaitedStore& store = job.awaited;
  absl::StatusOr<size_t> missing = absl::UnavailableError("the worker is shutting down");
  if (timeout > absl::ZeroDuration()) {
    client_.Store(store.sources, {timeout, store.request_id});
    const std::vector<bool> is_missing =
        client_.FindMissing(store.keys, {timeout, store.request_id});
    missing = static_cast<size_t>(std::count(is_missing.begin(), is_missing.end(), true));
  }
  job.rooms.clear();
  store.done(missing);
}

}  // namespace tessera
