#include "cache_server/service/call_log.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/log.h"

namespace tessera {
namespace {

LogLevel LevelOf(const CallFacts& call) {
  return call.request.empty() ? LogLevel::kDebug : LogLevel::kInfo;
}

void AddCall(const CallFacts& call, LogLine* line) {
  if (!call.request.empty()) line->With("request", call.request);
  line->With("transport", call.transport);
}

// "ram:3,rocksdb:1"; "none" when nothing was found.
std::string TiersOf(const FetchPieces& pieces, size_t* hits) {
  std::map<std::string, size_t> tiers;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (pieces.state(i) == FetchPieces::State::kMiss) continue;
    ++tiers[pieces.tier(i)];
    ++*hits;
  }
  return tiers.empty() ? "none" : absl::StrJoin(tiers, ",", absl::PairFormatter(":"));
}

}  // namespace

void LogLookup(const CallFacts& call, size_t keys, size_t missing) {
  if (!IsLogged(LevelOf(call))) return;
  LogLine line(LevelOf(call), "lookup_done");
  AddCall(call, &line);
  line.With("keys", keys).With("missing", missing).WithMs("total_ms", call.took);
}

void LogFetch(const CallFacts& call, const FetchPieces& pieces, uint64_t bytes,
              const absl::Status& status) {
  if (!IsLogged(LevelOf(call))) return;
  size_t hits = 0;
  const std::string tiers = TiersOf(pieces, &hits);
  LogLine line(LevelOf(call), "fetch_done");
  AddCall(call, &line);
  line.With("keys", pieces.size())
      .With("hits", hits)
      .With("lost", pieces.lost())
      .With("tiers", tiers)
      .With("bytes", bytes)
      .WithMs("total_ms", call.took)
      .WithError(status);
}

void LogStore(const CallFacts& call, const StoreFacts& facts, const absl::Status& status) {
  if (!IsLogged(LevelOf(call))) return;
  LogLine line(LevelOf(call), "store_done");
  AddCall(call, &line);
  line.With("stored", facts.stored)
      .With("present", facts.present)
      .With("rejected", facts.rejected)
      .With("bytes", facts.bytes)
      .WithMs("total_ms", call.took)
      .WithError(status);
}

void ShmCallLog::NameRequest(std::string id) {
  EndStore();
  request_ = std::move(id);
  if (request_.size() > kMostRequestIdBytes) request_.resize(kMostRequestIdBytes);
}

void ShmCallLog::Looked(size_t keys, size_t missing, absl::Time start) const {
  LogLookup(CallSince(start), keys, missing);
}

void ShmCallLog::Fetched(const FetchPieces& pieces, uint64_t bytes, absl::Time start) const {
  LogFetch(CallSince(start), pieces, bytes, absl::OkStatus());
}

void ShmCallLog::Put(uint64_t bytes, bool present, absl::Time start) {
  first_put_ = std::min(first_put_, start);
  ++(bytes > 0 ? puts_.stored : present ? puts_.present : puts_.rejected);
  puts_.bytes += bytes;
}

CallFacts ShmCallLog::CallSince(absl::Time start) const {
  return {.request = request_, .transport = "shm", .took = absl::Now() - start};
}

void ShmCallLog::EndStore() {
  if (first_put_ == absl::InfiniteFuture()) return;
  LogStore(CallSince(first_put_), puts_, absl::OkStatus());
  puts_ = {};
  first_put_ = absl::InfiniteFuture();
}

}  // namespace tessera
