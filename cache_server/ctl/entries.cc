#include "cache_server/ctl/entries.h"

#include <unistd.h>

#include <iostream>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/ctl/key_words.h"

ABSL_FLAG(bool, all, false, "All entries instead of named ones.");

namespace tessera::ctl {
namespace {

absl::StatusOr<std::vector<ChunkKey>> AllKeys(const Connection& connection) {
  std::vector<ChunkKey> keys;
  absl::Status status;
  RETURN_IF_ERROR(connection.List({}, [&](const cache::v1::ListResponse& page) {
    for (const cache::v1::Entry& entry : page.entries()) {
      const absl::StatusOr<ChunkKey> key = ChunkKey::FromBytes(entry.key());
      if (!key.ok()) {
        status = key.status();
      } else if (keys.size() == kMostKeyWords) {
        status = absl::ResourceExhaustedError(
            absl::StrCat("more than ", kMostKeyWords, " entries: name keys instead of --all"));
      } else {
        keys.push_back(*key);
      }
    }
    return status.ok();
  }));
  RETURN_IF_ERROR(status);
  return keys;
}

}  // namespace

absl::StatusOr<std::vector<ChunkKey>> KeysOrAll(const Session& session) {
  const bool all = absl::GetFlag(FLAGS_all);
  if (all != (session.line.words.size() == 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("give either keys or --all; `tessera_ctl help ", session.line.words[0], "`"));
  }
  return all ? AllKeys(session.connection) : KeysOf(session);
}

absl::StatusOr<uint32_t> DeleteKeys(const Connection& connection, absl::Span<const ChunkKey> keys) {
  uint32_t deleted = 0;
  for (const auto& request : InBatches<cache::v1::DeleteRequest>(keys)) {
    ASSIGN_OR_RETURN(const cache::v1::DeleteResponse some,
                     connection.Call(&Connection::Stub::Delete, request));
    deleted += some.deleted();
  }
  return deleted;
}

Progress::Progress(std::string what, size_t total)
    : what_(std::move(what)),
      total_(total),
      terminal_(isatty(STDERR_FILENO) != 0),
      next_(absl::Now()) {}

Progress::~Progress() {
  if (terminal_ && done_ > 0) std::cerr << '\n';
}

void Progress::Advance(size_t done) {
  done_ += done;
  const absl::Time now = absl::Now();
  if (now < next_ && done_ < total_) return;
  next_ = now + (terminal_ ? absl::Milliseconds(100) : absl::Seconds(5));
  std::cerr << (terminal_ ? "\r" : "") << what_ << ": " << done_ << " of " << total_
            << (terminal_ ? "" : "\n") << std::flush;
}

}  // namespace tessera::ctl
