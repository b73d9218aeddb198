// Subcommand verify: every byte against the checksum of its writer, on this side of the wire.
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/ctl/command.h"
#include "cache_server/ctl/entries.h"
#include "cache_server/ctl/json.h"
#include "cache_server/ctl/piece_checker.h"
#include "cache_server/ctl/table.h"
#include "cache_server/ctl/units.h"

ABSL_FLAG(bool, erase, false, "Delete the entries that are damaged.");

namespace tessera::ctl {
namespace {

// What one Fetch asks for. The server holds all of it in memory while the stream lives, so a call
// takes few: 16 pieces of 32 MiB are half a gigabyte.
constexpr size_t kKeysPerFetch = 16;

struct BadPiece {
  ChunkKey key;
  Verdict verdict;
  std::string reason;
};

struct Findings {
  std::array<size_t, 4> counts = {};  // by Verdict
  uint64_t bytes = 0;
  std::vector<BadPiece> bad;

  size_t count(Verdict verdict) const { return counts[static_cast<size_t>(verdict)]; }
};

absl::StatusOr<PieceChecker> Check(const Connection& connection, absl::Span<const ChunkKey> keys) {
  cache::v1::FetchRequest request;
  for (const ChunkKey& key : keys) request.add_keys(std::string(key.AsBytes()));
  Connection::OpenCall call(connection, connection.timeout());
  const auto reader = connection.stub()->Fetch(call.context(), request);
  PieceChecker checker(keys.size());
  cache::v1::FetchResponse message;
  while (reader->Read(&message)) {
    const absl::Status taken = checker.Take(message);
    if (taken.ok()) continue;
    call.context()->TryCancel();
    reader->Finish();
    return taken;
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return connection.Explain(status);
  return checker;
}

void AddFindings(const PieceChecker& checker, absl::Span<const ChunkKey> keys, Findings* findings) {
  findings->bytes += checker.checked_bytes();
  for (size_t i = 0; i < keys.size(); ++i) {
    const Verdict verdict = checker.verdict(i);
    ++findings->counts[static_cast<size_t>(verdict)];
    if (verdict != Verdict::kGood) findings->bad.push_back({keys[i], verdict, checker.Reason(i)});
  }
}

absl::Status CheckBatch(const Connection& connection, absl::Span<const ChunkKey> keys,
                        Findings* findings) {
  ASSIGN_OR_RETURN(const PieceChecker checker, Check(connection, keys));
  bool all_read = true;
  for (size_t i = 0; i < keys.size(); ++i) {
    all_read = all_read && checker.verdict(i) != Verdict::kUnreadable;
  }
  if (all_read || keys.size() == 1) {
    AddFindings(checker, keys, findings);
    return absl::OkStatus();
  }
  // There may have been no room for all of them at a time: ask for one after the other.
  for (const ChunkKey& key : keys) RETURN_IF_ERROR(CheckBatch(connection, {&key, 1}, findings));
  return absl::OkStatus();
}

boost::json::object FindingsToJson(const Findings& findings, uint32_t erased) {
  boost::json::object object;
  for (size_t i = 0; i < findings.counts.size(); ++i) {
    object[VerdictName(static_cast<Verdict>(i))] = findings.counts[i];
  }
  object["bytes"] = findings.bytes;
  object["erased"] = erased;
  boost::json::array bad;
  for (const BadPiece& piece : findings.bad) {
    bad.push_back({{"key", piece.key.ToHex()},
                   {"verdict", VerdictName(piece.verdict)},
                   {"reason", piece.reason}});
  }
  object["bad"] = std::move(bad);
  return object;
}

void PrintFindings(const Findings& findings, uint32_t erased, std::ostream& out) {
  if (!findings.bad.empty()) {
    Table table({{"KEY"}, {"VERDICT"}, {"WHY"}});
    for (const BadPiece& piece : findings.bad) {
      table.AddRow({piece.key.ToHex(), VerdictName(piece.verdict), piece.reason});
    }
    table.Print(out);
    out << '\n';
  }
  out << findings.count(Verdict::kGood) << " good (" << FormatBytes(findings.bytes) << "), "
      << findings.count(Verdict::kDamaged) << " damaged, " << findings.count(Verdict::kUnreadable)
      << " unreadable, " << findings.count(Verdict::kMissing) << " missing";
  if (absl::GetFlag(FLAGS_erase)) out << "; " << erased << " erased";
  out << '\n';
}

}  // namespace

absl::StatusOr<Outcome> RunVerify(const Session& session) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys, KeysOrAll(session));
  Progress progress("verify", keys.size());
  Findings findings;
  for (size_t first = 0; first < keys.size(); first += kKeysPerFetch) {
    const auto some = absl::MakeConstSpan(keys).subspan(first, kKeysPerFetch);
    RETURN_IF_ERROR(CheckBatch(session.connection, some, &findings));
    progress.Advance(some.size());
  }
  uint32_t erased = 0;
  if (absl::GetFlag(FLAGS_erase)) {
    std::vector<ChunkKey> damaged;
    for (const BadPiece& piece : findings.bad) {
      if (piece.verdict == Verdict::kDamaged) damaged.push_back(piece.key);
    }
    ASSIGN_OR_RETURN(erased, DeleteKeys(session.connection, damaged));
  }
  if (session.json) {
    session.out << FindingsToJson(findings, erased) << '\n';
  } else {
    PrintFindings(findings, erased, session.out);
  }
  // Of all entries, some may well be evicted before their turn comes.
  const bool named = session.line.words.size() > 1;
  const size_t missing = named ? findings.count(Verdict::kMissing) : 0;
  const size_t bad = findings.count(Verdict::kDamaged) + findings.count(Verdict::kUnreadable);
  return missing + bad == 0 ? Outcome::kDone : Outcome::kPartly;
}

}  // namespace tessera::ctl
