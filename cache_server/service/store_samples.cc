#include "cache_server/service/store_samples.h"

#include <malloc.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/metric_samples.h"

namespace tessera {
namespace {

// One column of all tiers' stats.
struct TierColumn {
  const char* name;
  const char* help;
  bool counter;
  uint64_t TierStats::*value;
};
constexpr TierColumn kTierColumns[] = {
    {"tier_capacity_bytes", "The tier's limit.", false, &TierStats::capacity_bytes},
    {"tier_used_bytes", "Entries, unfinished writes, and what is still read.", false,
     &TierStats::used_bytes},
    {"tier_entries", "Pieces that may be found.", false, &TierStats::entries},
    {"tier_hits", "Reads that found their piece.", true, &TierStats::hits},
    {"tier_misses", "Reads that did not.", true, &TierStats::misses},
    {"tier_read_bytes", "Bytes of the pieces that were hit.", true, &TierStats::read_bytes},
    {"tier_written_bytes", "Bytes of the pieces that were committed.", true,
     &TierStats::written_bytes},
    {"tier_refused_writes", "Pieces that found no room.", true, &TierStats::refused},
};

void AddTiers(const std::vector<TierStats>& tiers, MetricSamples* out) {
  for (const TierColumn& column : kTierColumns) {
    for (const TierStats& stats : tiers) {
      const auto value = static_cast<double>(stats.*column.value);
      const MetricLabels labels = {{"tier", stats.name}};
      if (column.counter) {
        out->Counter(column.name, column.help, value, labels);
      } else {
        out->Gauge(column.name, column.help, value, labels);
      }
    }
  }
  for (const TierStats& stats : tiers) {
    for (size_t i = 0; i < kEvictionReasons; ++i) {
      out->Counter(
          "tier_evictions", "Pieces that left the tier.", static_cast<double>(stats.evictions[i]),
          {{"tier", stats.name}, {"reason", EvictionReasonName(static_cast<EvictionReason>(i))}});
    }
  }
  for (const TierStats& stats : tiers) {
    for (const auto& [name, value] : stats.medium) {
      out->Gauge("tier_medium", "What the tier's medium says of itself.", value,
                 {{"tier", stats.name}, {"what", name}});
    }
  }
}

void AddLookups(const std::vector<LookupCounters>& lookups, MetricSamples* out) {
  for (const LookupCounters& found : lookups) {
    out->Counter(
        "lookup_pieces", "Keys that readers asked for, by the fastest tier with the piece.",
        static_cast<double>(found.pieces), {{"tier", found.tier.empty() ? "none" : found.tier}});
  }
  for (const LookupCounters& found : lookups) {
    if (found.tier.empty()) continue;
    out->Counter("lookup_hit_bytes", "Bytes of the pieces that were found.",
                 static_cast<double>(found.bytes), {{"tier", found.tier}});
  }
}

void AddStore(const ChunkStore& store, MetricSamples* out) {
  const StoreCounters counters = store.counters();
  AddLookups(counters.lookups, out);
  out->Gauge("pinned_pieces", "Pieces that are pinned.", store.pins().size());
  out->Gauge("pinned_bytes", "Their bytes.", store.pins().bytes());
  out->Counter("tier_errors", "Failures of a tier that were taken as misses.",
               counters.tier_errors);
  out->Counter("loads", "Pieces loaded from a lower tier.", counters.loads.loads);
  out->Counter("failed_loads", "Loads that found nothing, or no room.",
               counters.loads.failed_loads);
  out->Counter("shared_loads", "Readers that joined another's load.", counters.loads.shared_loads);
  out->Counter("refused_loads", "Loads that found the queue full.", counters.loads.refused_loads);
  out->Gauge("load_queue", "Pieces that wait to be loaded.", counters.loads.waiting);
  out->Gauge("write_queue_pieces", "Pieces that wait to be written down.", counters.writes.pieces);
  out->Gauge("write_queue_bytes", "Their bytes.", counters.writes.bytes);
  out->Counter("written_pieces", "Pieces written to a lower tier.", counters.writes.written);
  out->Counter("dropped_writes", "Pieces not written down: the queue was full.",
               counters.writes.dropped);
  out->Counter("refused_writes", "Pieces that a lower tier refused.", counters.writes.refused);
}

void AddTransports(const TransportCounters& grpc, const ShmCounters& shm, MetricSamples* out) {
  auto both = [out](const char* name, const char* help, uint64_t of_grpc, uint64_t of_shm) {
    out->Counter(name, help, of_grpc, {{"transport", "grpc"}});
    out->Counter(name, help, of_shm, {{"transport", "shm"}});
  };
  both("sent_bytes", "Bytes of slices that readers got.", grpc.fetched_bytes, shm.served_bytes);
  both("received_bytes", "Bytes of pieces that were stored.", grpc.stored_bytes, shm.put_bytes);
  both("found_pieces", "Keys asked for that were here.", grpc.found_pieces, shm.found_pieces);
  both("missing_pieces", "Keys asked for that were not.", grpc.missing_pieces, shm.missing_pieces);
  both("expired_leases", "Readers that were cut off.", grpc.expired_leases, shm.expired_leases);
  both("checksum_failures", "Pieces that arrived damaged.", grpc.checksum_failures,
       shm.checksum_failures);
  out->Counter("fetches", "Fetch calls.", grpc.fetches);
  out->Counter("refused_fetches", "Fetch calls that were refused.", grpc.refused_fetches);
  out->Counter("stores", "Store calls.", grpc.stores);
  out->Counter("refused_stores", "Store calls that ended with an error.", grpc.refused_stores);
  out->Counter("lost_pieces", "Pieces announced to a reader that could not be loaded.",
               grpc.lost_pieces);
  out->Counter("present_pieces", "Pieces that came and were here already.", grpc.present_pieces);
  out->Counter("rejected_pieces", "Pieces that came and found no room.", grpc.rejected_pieces);
  out->Counter("unauthenticated", "Calls without the token.", grpc.unauthenticated);
  out->Counter("reported_damaged", "Keys that readers reported as damaged.", grpc.deleted_damaged);
  out->Counter("refused_shm_sessions", "Sessions refused: another user, token, or too many.",
               shm.refused);
}

void AddOpenCalls(const StoreSources& sources, const ShmCounters& shm, MetricSamples* out) {
  const char* const leases = "Readers that pin pieces now: Fetch calls, leases of shared memory.";
  out->Gauge("leases", leases, static_cast<double>(sources.open_fetches), {{"transport", "grpc"}});
  out->Gauge("leases", leases, static_cast<double>(shm.leases), {{"transport", "shm"}});
  out->Gauge("open_stores", "Store calls under way.", static_cast<double>(sources.open_stores));
  out->Gauge("shm_sessions", "Connections to read the memory in place.",
             static_cast<double>(shm.sessions));
}

// What the process has from malloc; the memory tier is not in it.
void AddHeap(MetricSamples* out) {
  const struct mallinfo2 heap = mallinfo2();
  auto part = [out](const char* name, size_t bytes) {
    out->Gauge("heap_bytes", "Memory that malloc has from the system.", static_cast<double>(bytes),
               {{"part", name}});
  };
  part("used", heap.uordblks);
  part("free", heap.fordblks);
  part("mapped", heap.hblkhd);
}

class TierLatencies : public TierObserver {
 public:
  TierLatencies(const std::string& tier, Metrics* metrics) {
    for (const TierCall call : {TierCall::kGet, TierCall::kAllocate, TierCall::kCommit,
                                TierCall::kErase, TierCall::kFlush}) {
      calls_.push_back(metrics->AddLatency("tessera_cache_tier_seconds",
                                           "How long a call of a tier takes.",
                                           {{"tier", tier}, {"call", TierCallName(call)}}));
    }
  }
  void Observed(TierCall call, absl::Duration took, bool ok, uint64_t bytes) override {
    calls_[static_cast<size_t>(call)]->Observe(took);
  }

 private:
  std::vector<LatencyHistogram*> calls_;
};

}  // namespace

std::vector<MetricSample> StoreSamples(const StoreSources& sources) {
  MetricSamples out("tessera_cache_");
  AddTiers(sources.store->Stats(), &out);
  AddStore(*sources.store, &out);
  const ShmCounters shm = sources.shm == nullptr ? ShmCounters() : sources.shm->counters();
  AddTransports(*sources.counters, shm, &out);
  AddOpenCalls(sources, shm, &out);
  AddHeap(&out);
  return out.Take();
}

std::string SampleName(const MetricSample& sample) {
  if (sample.labels.empty()) return sample.name;
  std::string name = sample.name;
  char separator = '{';
  for (const auto& [label, value] : sample.labels) {
    absl::StrAppend(&name, std::string(1, separator), label, "=\"", value, "\"");
    separator = ',';
  }
  return name + "}";
}

std::shared_ptr<TierObserver> MakeTierLatencies(const std::string& name, Metrics* metrics) {
  return std::make_shared<TierLatencies>(name, metrics);
}

}  // namespace tessera
