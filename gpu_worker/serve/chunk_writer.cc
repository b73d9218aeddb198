#include "gpu_worker/serve/chunk_writer.h"

#include <optional>
#include <utility>

#include "absl/time/time.h"

namespace tessera {
namespace {

constexpr absl::Duration kStoreTimeout = absl::Seconds(60);

}  // namespace

ChunkWriter::ChunkWriter(CacheClient* client, int64_t tokens_per_piece, size_t capacity)
    : client_(*client),
      tokens_per_piece_(tokens_per_piece),
      queue_(capacity),
      thread_([this] { Work(); }) {}

ChunkWriter::~ChunkWriter() {
  queue_.Close();
  thread_.join();
}

void ChunkWriter::Write(std::vector<FreshChunk> chunks) {
  if (chunks.empty()) return;
  const size_t count = chunks.size();
  if (!queue_.TryPush(std::move(chunks))) dropped_ += count;
}

void ChunkWriter::Work() {
  while (std::optional<std::vector<FreshChunk>> chunks = queue_.Pop()) {
    client_.Store(SourcesOf(*chunks, tokens_per_piece_), kStoreTimeout);
  }
}

}  // namespace tessera
