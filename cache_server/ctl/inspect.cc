// Subcommands that look: stats, ls, watch.
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/ctl/command.h"
#include "cache_server/ctl/json.h"
#include "cache_server/ctl/table.h"
#include "cache_server/ctl/units.h"

ABSL_FLAG(absl::Duration, watch, absl::ZeroDuration(),
          "Print again after each such time, until Ctrl-C, such as 2s.");
ABSL_FLAG(std::string, order, "oldest", "oldest (added first) or largest.");
ABSL_FLAG(uint64_t, limit, 0, "Print no more entries than this; 0: all.");
ABSL_FLAG(bool, keys, false, "Print whole keys only, one a line, as other commands read them.");

namespace tessera::ctl {
namespace {

using cache::v1::Entry;
using cache::v1::ListRequest;
using cache::v1::ListResponse;
using cache::v1::StatsResponse;
using cache::v1::TierStats;
using cache::v1::WatchEvent;

// Enough to tell keys apart by eye, and to name them to other commands.
constexpr size_t kShownDigits = 16;

std::string HitRate(const TierStats& tier) {
  const uint64_t asked = tier.hits() + tier.misses();
  if (asked == 0) return "-";
  return absl::StrFormat("%.1f%%",
                         100.0 * static_cast<double>(tier.hits()) / static_cast<double>(asked));
}

std::string Evictions(const TierStats& tier) {
  std::vector<std::string> reasons;
  for (const auto& [reason, count] : tier.evictions_by_reason()) {
    if (count > 0) reasons.push_back(absl::StrCat(reason, " ", count));
  }
  std::sort(reasons.begin(), reasons.end());
  const std::string all = absl::StrCat(tier.evictions());
  return reasons.empty() ? all : absl::StrCat(all, " (", absl::StrJoin(reasons, ", "), ")");
}

void PrintTiers(const StatsResponse& stats, std::ostream& out) {
  Table table({{"TIER"},
               {"USED", true},
               {"OF", true},
               {"ENTRIES", true},
               {"HITS", true},
               {"MISSES", true},
               {"RATE", true},
               {"READ", true},
               {"WRITTEN", true},
               {"REFUSED", true},
               {"EVICTED"}});
  for (const TierStats& tier : stats.tiers()) {
    table.AddRow({tier.name(), FormatBytes(tier.used_bytes()), FormatBytes(tier.capacity_bytes()),
                  absl::StrCat(tier.entries()), absl::StrCat(tier.hits()),
                  absl::StrCat(tier.misses()), HitRate(tier), FormatBytes(tier.read_bytes()),
                  FormatBytes(tier.written_bytes()), absl::StrCat(tier.refused()),
                  Evictions(tier)});
  }
  table.Print(out);
}

// What the table of tiers shows is not repeated, and what never happened is no news.
void PrintCounters(const StatsResponse& stats, std::ostream& out) {
  std::vector<std::pair<std::string, uint64_t>> shown;
  size_t zeros = 0;
  for (const auto& [name, value] : stats.counters()) {
    const absl::string_view bare = absl::StripPrefix(name, "tessera_cache_");
    if (absl::StartsWith(bare, "tier_") && !absl::StartsWith(bare, "tier_errors")) continue;
    if (value == 0) {
      ++zeros;
    } else {
      shown.emplace_back(std::string(bare), value);
    }
  }
  if (shown.empty()) return;
  std::sort(shown.begin(), shown.end());
  Table table({{"COUNTER"}, {"VALUE", true}});
  for (const auto& [name, value] : shown) table.AddRow({name, absl::StrCat(value)});
  out << '\n';
  table.Print(out);
  out << "(" << zeros << " more are 0)\n";
}

void PrintStats(const Connection& connection, const StatsResponse& stats, std::ostream& out) {
  out << connection.address().address << ", up " << FormatAge(absl::Milliseconds(stats.uptime_ms()))
      << (stats.draining() ? ", DRAINING (takes no work; drain --resume)" : "") << "\n\n";
  PrintTiers(stats, out);
  out << "\npinned       " << stats.pinned_pieces() << " pieces, "
      << FormatBytes(stats.pinned_bytes()) << "\nwrite queue  " << stats.write_queue_pieces()
      << " pieces, " << FormatBytes(stats.write_queue_bytes()) << "\nopen         "
      << stats.open_fetches() << " fetches, " << stats.open_stores() << " stores, "
      << stats.watchers() << " watchers, " << stats.shm_sessions()
      << " shared-memory sessions with " << stats.shm_leases() << " leases\n";
  PrintCounters(stats, out);
}

absl::StatusOr<ListRequest> ListRequestOf(const Session& session) {
  ListRequest request;
  const std::string order = absl::GetFlag(FLAGS_order);
  if (order != "oldest" && order != "largest") {
    return absl::InvalidArgumentError(
        absl::StrCat("--order=", order, " is not valid: give oldest or largest"));
  }
  if (order == "largest") request.set_order(ListRequest::LARGEST);
  ASSIGN_OR_RETURN(*request.mutable_tenant(), TenantOf(session));
  const uint64_t limit = absl::GetFlag(FLAGS_limit);
  if (limit > 0 && limit < 1000) request.set_page_size(static_cast<uint32_t>(limit));
  return request;
}

// Prints entries page by page, as a table, as keys, or as one array of JSON.
class EntryPrinter {
 public:
  EntryPrinter(bool json, bool keys, std::ostream& out)
      : json_(json),
        keys_(keys),
        out_(out),
        table_({{"KEY", false, kShownDigits},
                {"SIZE", true, 9},
                {"LAYERS", true},
                {"TIERS", false, 11},
                {"TENANT", false, 8},
                {"AGE", true, 7},
                {"IDLE", true, 7},
                {"PINNED", true, 7}}) {}

  void Add(const Entry& entry) {
    const std::string key = absl::BytesToHexString(entry.key());
    if (json_) {
      out_ << (any_ ? ",\n " : "[\n ") << ToJson(entry);
    } else if (keys_) {
      out_ << key << '\n';
    } else {
      AddRow(key, entry);
    }
    any_ = true;
  }

  void EndPage() {
    if (!json_ && !keys_) table_.Print(out_);
  }

  void End() {
    if (json_) out_ << (any_ ? "\n]\n" : "[]\n");
  }

 private:
  void AddRow(const std::string& key, const Entry& entry) {
    const std::string tenant = absl::BytesToHexString(entry.tenant());
    table_.AddRow(
        {key.substr(0, kShownDigits), FormatBytes(entry.layers() * entry.slice_bytes()),
         absl::StrCat(entry.layers()), absl::StrJoin(entry.tiers(), ","),
         tenant.empty() ? "-" : tenant.substr(0, 8), FormatAge(absl::Milliseconds(entry.age_ms())),
         FormatAge(absl::Milliseconds(entry.idle_ms())),
         entry.pinned_ms() == 0 ? "-" : FormatAge(absl::Milliseconds(entry.pinned_ms()))});
  }

  const bool json_;
  const bool keys_;
  std::ostream& out_;
  Table table_;
  bool any_ = false;
};

void PrintEvent(const WatchEvent& event, std::ostream& out) {
  out << absl::FormatTime("%H:%M:%E3S", absl::Now(), absl::LocalTimeZone()) << "  ";
  if (event.kind() == WatchEvent::MISSED) {
    out << "missed   " << event.missed() << " events: this terminal is too slow\n";
    return;
  }
  out << absl::StrFormat("%-8s %s  %s", absl::AsciiStrToLower(WatchEvent::Kind_Name(event.kind())),
                         absl::BytesToHexString(event.key()), event.tier());
  if (!event.reason().empty()) out << "  " << event.reason();
  out << '\n';
}

}  // namespace

absl::StatusOr<Outcome> RunStats(const Session& session) {
  const absl::Duration pause = absl::GetFlag(FLAGS_watch);
  if (session.line.Has("watch") && pause < absl::Milliseconds(100)) {
    return absl::InvalidArgumentError("--watch must be 100ms or more, such as --watch=2s");
  }
  while (true) {
    ASSIGN_OR_RETURN(const StatsResponse stats,
                     session.connection.Call(&Connection::Stub::Stats, cache::v1::StatsRequest()));
    if (session.json) {
      session.out << ToJson(stats) << '\n';
    } else {
      PrintStats(session.connection, stats, session.out);
    }
    if (pause <= absl::ZeroDuration()) return Outcome::kDone;
    if (!session.json) session.out << '\n';
    session.out.flush();
    if (session.interrupt.WaitFor(pause)) return Outcome::kDone;
  }
}

absl::StatusOr<Outcome> RunList(const Session& session) {
  ASSIGN_OR_RETURN(const ListRequest request, ListRequestOf(session));
  const uint64_t limit = absl::GetFlag(FLAGS_limit);
  uint64_t printed = 0;
  EntryPrinter printer(session.json, absl::GetFlag(FLAGS_keys), session.out);
  RETURN_IF_ERROR(session.connection.List(request, [&](const ListResponse& page) {
    for (const Entry& entry : page.entries()) {
      if (limit > 0 && printed == limit) break;
      printer.Add(entry);
      ++printed;
    }
    printer.EndPage();
    return limit == 0 || printed < limit;
  }));
  printer.End();
  return Outcome::kDone;
}

absl::StatusOr<Outcome> RunWatch(const Session& session) {
  // The watch itself has no deadline; a server that is not there is found out now.
  RETURN_IF_ERROR(session.connection
                      .Call(&Connection::Stub::GetCapabilities, cache::v1::GetCapabilitiesRequest())
                      .status());
  Connection::OpenCall call(session.connection, absl::InfiniteDuration());
  const auto reader = session.connection.stub()->Watch(call.context(), cache::v1::WatchRequest());
  // The answer's head says that whatever happens from now on will be told.
  reader->WaitForInitialMetadata();
  std::cerr << "watching; Ctrl-C ends it\n";
  WatchEvent event;
  while (reader->Read(&event)) {
    if (session.json) {
      session.out << ToJson(event) << '\n';
    } else {
      PrintEvent(event, session.out);
    }
    session.out.flush();
  }
  const grpc::Status status = reader->Finish();
  if (session.interrupt.requested()) return Outcome::kDone;
  if (status.ok()) return absl::UnavailableError("the server ended the watch");
  return session.connection.Explain(status);
}

}  // namespace tessera::ctl
