// What several subcommands do with many entries.
#ifndef TESSERA_CACHE_SERVER_CTL_ENTRIES_H_
#define TESSERA_CACHE_SERVER_CTL_ENTRIES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/chunk/key.h"
#include "cache_server/ctl/command.h"

namespace tessera::ctl {

// The keys that the words name, or with --all those of all entries. INVALID_ARGUMENT: neither or
// both; RESOURCE_EXHAUSTED: more than kMostKeyWords.
absl::StatusOr<std::vector<ChunkKey>> KeysOrAll(const Session& session);

// Deletes in as many calls as it takes. Returns how many keys were there.
absl::StatusOr<uint32_t> DeleteKeys(const Connection& connection, absl::Span<const ChunkKey> keys);

// Says on standard error how far something is: on a terminal in one line that is overwritten,
// elsewhere one line a while.
class Progress {
 public:
  Progress(std::string what, size_t total);
  ~Progress();
  void Advance(size_t done);

 private:
  const std::string what_;
  const size_t total_;
  const bool terminal_;
  size_t done_ = 0;
  absl::Time next_;
};

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_ENTRIES_H_
