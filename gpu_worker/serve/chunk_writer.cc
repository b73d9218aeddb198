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

int64_t BytesOf(const FreshChunk& fresh) {
  int64_t bytes = 0;
  for (int64_t piece = 0; piece < fresh.chunk->pieces(); ++piece) {
    bytes += fresh.chunk->SliceBytes(piece) * fresh.chunk->layers();
  }
  return bytes;
}

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

void ChunkWriter::Write(std::vector<FreshChunk> chunks) {
  Job job;
  for (FreshChunk& fresh : chunks) {
    const int64_t bytes = BytesOf(fresh);
    if (pending_bytes_.fetch_add(bytes) + bytes > most_bytes_) {
      pending_bytes_ -= bytes;
      ++dropped_;
      continue;
    }
    job.bytes += bytes;
    job.chunks.push_back(std::move(fresh));
  }
  if (job.chunks.empty()) return;
  const int64_t bytes = job.bytes;
  const size_t count = job.chunks.size();
  if (queue_.TryPush(std::move(job))) return;
  pending_bytes_ -= bytes;
  dropped_ += count;
}

void ChunkWriter::Work() {
  while (std::optional<Job> job = queue_.Pop()) {
    const absl::Duration left = absl::FromUnixMillis(stop_by_ms_) - absl::Now();
    const absl::Duration timeout = std::min(kStoreTimeout, left);
    if (timeout > absl::ZeroDuration()) {
      client_.Store(SourcesOf(job->chunks, tokens_per_piece_), timeout);
    } else {
      dropped_ += job->chunks.size();
    }
    pending_bytes_ -= job->bytes;
  }
}

}  // namespace tessera
