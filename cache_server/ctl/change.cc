// Subcommands that change what the server keeps: pin, unpin, rm, clear, warm, flush, drain.
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "cache_server/ctl/command.h"
#include "cache_server/ctl/entries.h"
#include "cache_server/ctl/json.h"

ABSL_FLAG(absl::Duration, ttl, absl::Hours(1), "How long the pins last, such as 90s or 24h.");
ABSL_FLAG(bool, yes, false, "Yes, delete them.");
ABSL_FLAG(bool, resume, false, "Take work again.");

namespace tessera::ctl {
namespace {

using Stub = Connection::Stub;

// "2 pinned, 1 missing, 0 refused"; or, as JSON, the answer.
template <typename Response>
void Print(const Session& session, const Response& response, const std::string& words) {
  if (session.json) {
    session.out << ToJson(response) << '\n';
  } else {
    session.out << words << '\n';
  }
}

}  // namespace

absl::StatusOr<Outcome> RunPin(const Session& session) {
  const absl::Duration ttl = absl::GetFlag(FLAGS_ttl);
  if (ttl < absl::Milliseconds(1) || ttl == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError("--ttl must be a time that ends, such as --ttl=1h");
  }
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, KeysOf(session));
  cache::v1::PinResponse all;
  for (cache::v1::PinRequest& request : InBatches<cache::v1::PinRequest>(keys)) {
    request.set_ttl_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(ttl)));
    ASSIGN_OR_RETURN(const cache::v1::PinResponse some,
                     session.connection.Call(&Stub::Pin, request));
    all.set_pinned(all.pinned() + some.pinned());
    all.set_missing(all.missing() + some.missing());
    all.set_refused(all.refused() + some.refused());
  }
  Print(session, all,
        absl::StrCat(all.pinned(), " pinned for ", absl::FormatDuration(ttl), ", ", all.missing(),
                     " missing, ", all.refused(), " refused"));
  return all.pinned() == keys.size() ? Outcome::kDone : Outcome::kPartly;
}

absl::StatusOr<Outcome> RunUnpin(const Session& session) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, KeysOf(session));
  cache::v1::UnpinResponse all;
  for (const auto& request : InBatches<cache::v1::UnpinRequest>(keys)) {
    ASSIGN_OR_RETURN(const cache::v1::UnpinResponse some,
                     session.connection.Call(&Stub::Unpin, request));
    all.set_unpinned(all.unpinned() + some.unpinned());
  }
  Print(session, all,
        absl::StrCat(all.unpinned(), " unpinned, ", keys.size() - all.unpinned(),
                     " were not pinned"));
  return Outcome::kDone;
}

absl::StatusOr<Outcome> RunRemove(const Session& session) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, KeysOf(session));
  ASSIGN_OR_RETURN(const uint32_t deleted, DeleteKeys(session.connection, keys));
  cache::v1::DeleteResponse all;
  all.set_deleted(deleted);
  Print(session, all,
        absl::StrCat(deleted, " deleted, ", keys.size() - deleted, " were not there"));
  return Outcome::kDone;
}

absl::StatusOr<Outcome> RunClear(const Session& session) {
  cache::v1::ClearRequest request;
  ASSIGN_OR_RETURN(*request.mutable_tenant(), TenantOf(session));
  if (!absl::GetFlag(FLAGS_yes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "this would delete all entries ", request.tenant().empty() ? "" : "of a tenant ", "on ",
        session.connection.address().address, ": add --yes to do it"));
  }
  ASSIGN_OR_RETURN(const cache::v1::ClearResponse response,
                   session.connection.Call(&Stub::Clear, request));
  Print(session, response, absl::StrCat(response.deleted(), " deleted"));
  return Outcome::kDone;
}

absl::StatusOr<Outcome> RunWarm(const Session& session) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, KeysOrAll(session));
  Progress progress("warm", keys.size());
  cache::v1::PrefetchResponse all;
  for (const auto& request : InBatches<cache::v1::PrefetchRequest>(keys)) {
    ASSIGN_OR_RETURN(const cache::v1::PrefetchResponse some,
                     session.connection.Call(&Stub::Prefetch, request));
    all.set_loaded(all.loaded() + some.loaded());
    all.set_present(all.present() + some.present());
    all.set_missing(all.missing() + some.missing());
    progress.Advance(static_cast<size_t>(request.keys_size()));
  }
  Print(session, all,
        absl::StrCat(all.loaded(), " loaded, ", all.present(), " were in memory, ", all.missing(),
                     " missing or without room"));
  return all.missing() == 0 ? Outcome::kDone : Outcome::kPartly;
}

absl::StatusOr<Outcome> RunFlush(const Session& session) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, KeysOf(session));
  auto requests = InBatches<cache::v1::FlushRequest>(keys);
  // Without keys: what is queued.
  if (requests.empty()) requests.emplace_back();
  cache::v1::FlushResponse all;
  for (const cache::v1::FlushRequest& request : requests) {
    ASSIGN_OR_RETURN(const cache::v1::FlushResponse some,
                     session.connection.Call(&Stub::Flush, request));
    all.MergeFrom(some);
  }
  const int left = all.not_durable_keys_size();
  Print(session, all,
        keys.empty() ? "all that was queued is durable"
                     : absl::StrCat(keys.size() - left, " durable, ", left, " not"));
  if (!session.json) {
    for (const std::string& key : all.not_durable_keys()) {
      session.out << "not durable  " << absl::BytesToHexString(key) << '\n';
    }
  }
  return left == 0 ? Outcome::kDone : Outcome::kPartly;
}

absl::StatusOr<Outcome> RunDrain(const Session& session) {
  cache::v1::DrainRequest request;
  request.set_resume(absl::GetFlag(FLAGS_resume));
  if (!request.resume()) std::cerr << "waiting for what is open\n";
  ASSIGN_OR_RETURN(const cache::v1::DrainResponse response,
                   session.connection.Call(&Stub::Drain, request));
  if (request.resume()) {
    Print(session, response, "takes work again");
    return Outcome::kDone;
  }
  const bool drained =
      response.open_fetches() + response.open_stores() + response.shm_leases() == 0;
  Print(session, response,
        drained ? "drained: nothing is open"
                : absl::StrCat("takes no more work, but still open are ", response.open_fetches(),
                               " fetches, ", response.open_stores(), " stores and ",
                               response.shm_leases(), " shared-memory leases"));
  return drained ? Outcome::kDone : Outcome::kPartly;
}

}  // namespace tessera::ctl
