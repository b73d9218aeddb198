#include "gateway/openai/cluster.h"

#include <utility>

#include "absl/time/clock.h"
#include "boost/json/array.hpp"
#include "boost/json/value.hpp"

namespace tessera::openai {
namespace {

namespace json = boost::json;

json::object WorkerObject(const WorkerState& state) {
  json::object object;
  object["address"] = state.address;
  object["state"] = state.ready ? "ready" : "down";
  object["in_flight"] = state.in_flight;
  object["running"] = state.ready ? json::value(state.running) : json::value(nullptr);
  object["waiting"] = state.ready ? json::value(state.waiting) : json::value(nullptr);
  object["model"] = state.ready ? json::value(state.model) : json::value(nullptr);
  object["device"] = state.ready ? json::value(state.device) : json::value(nullptr);
  object["max_model_len"] = state.ready ? json::value(state.max_len) : json::value(nullptr);
  object["blend"] = state.blend_enabled;
  return object;
}

json::object TierObject(const cache::v1::TierStats& stats) {
  json::object tier;
  tier["name"] = stats.name();
  tier["used_bytes"] = stats.used_bytes();
  tier["capacity_bytes"] = stats.capacity_bytes();
  tier["entries"] = stats.entries();
  tier["hits"] = stats.hits();
  tier["misses"] = stats.misses();
  tier["evictions"] = stats.evictions();
  return tier;
}

json::object CacheObject(const absl::StatusOr<cache::v1::StatsResponse>& stats) {
  json::object object;
  object["reachable"] = stats.ok();
  if (!stats.ok()) return object;
  object["draining"] = stats->draining();
  object["uptime_seconds"] = stats->uptime_ms() / 1000;
  object["pinned_bytes"] = stats->pinned_bytes();
  json::array tiers;
  for (const cache::v1::TierStats& tier : stats->tiers()) tiers.push_back(TierObject(tier));
  object["tiers"] = std::move(tiers);
  return object;
}

}  // namespace

void Cluster::Count(const worker::v1::PromptUsage& usage) {
  absl::MutexLock lock(&mutex_);
  exact_ += usage.exact_tokens();
  blended_ += usage.blended_tokens();
  recomputed_ += usage.recomputed_tokens();
  computed_ += usage.computed_tokens();
}

json::object Cluster::Report() {
  json::array workers;
  for (const WorkerState& state : workers_.States()) workers.push_back(WorkerObject(state));
  json::object body;
  body["ready"] = workers_.ready();
  body["workers"] = std::move(workers);
  body["prompt_tokens"] = PromptTokens();
  body["cache"] = nullptr;
  if (cache_ != nullptr) body["cache"] = CacheObject(CacheStats());
  return body;
}

json::object Cluster::PromptTokens() const {
  absl::MutexLock lock(&mutex_);
  return {{"exact", exact_},
          {"blended", blended_},
          {"recomputed", recomputed_},
          {"computed", computed_}};
}

absl::StatusOr<cache::v1::StatsResponse> Cluster::CacheStats() {
  absl::MutexLock lock(&asking_);
  const absl::Time now = absl::Now();
  if (!stats_ || now - asked_ >= kCacheAskedEvery) {
    stats_ = cache_->Stats(kCacheAnswersWithin);
    asked_ = now;
  }
  return *stats_;
}

}  // namespace tessera::openai
