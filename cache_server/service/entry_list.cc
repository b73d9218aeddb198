#include "cache_server/service/entry_list.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

using cache::v1::ListRequest;

constexpr uint32_t kDefaultPage = 100;
constexpr uint32_t kLargestPage = 1000;

// One key, whatever tiers it lies in.
struct Merged {
  TierEntry entry;  // added first, used last
  std::vector<std::string> tiers;
};

// Entries are listed in this order: lowest rank first, keys within a rank.
struct Rank {
  int64_t value = 0;
  ChunkKey key;
  friend auto operator<=>(const Rank&, const Rank&) = default;
};

Rank RankOf(ListRequest::Order order, const TierEntry& entry) {
  if (order == ListRequest::LARGEST) {
    return {-static_cast<int64_t>(entry.shape.bytes()), entry.key};
  }
  return {absl::ToUnixNanos(entry.added), entry.key};
}

std::string TokenOf(ListRequest::Order order, const Rank& rank) {
  return absl::StrCat(static_cast<int>(order), ":", rank.value, ":", rank.key.ToHex());
}

absl::StatusOr<std::optional<Rank>> ParseToken(ListRequest::Order order, const std::string& token) {
  if (token.empty()) return std::nullopt;
  const std::vector<std::string> parts = absl::StrSplit(token, ':');
  Rank rank;
  const bool sound = parts.size() == 3 && parts[0] == absl::StrCat(static_cast<int>(order)) &&
                     absl::SimpleAtoi(parts[1], &rank.value) && parts[2].size() == 64 &&
                     std::all_of(parts[2].begin(), parts[2].end(), absl::ascii_isxdigit);
  if (!sound) {
    return absl::InvalidArgumentError(
        "the page token is not one of this order; leave it empty for the first page");
  }
  ASSIGN_OR_RETURN(rank.key, ChunkKey::FromBytes(absl::HexStringToBytes(parts[2])));
  return rank;
}

absl::flat_hash_map<ChunkKey, Merged> MergeTiers(const ChunkStore& store) {
  absl::flat_hash_map<ChunkKey, Merged> merged;
  for (const auto& tier : store.tiers()) {
    const std::string name = tier->Stats().name;
    for (const TierEntry& entry : tier->List()) {
      const auto [position, is_new] = merged.try_emplace(entry.key, Merged{entry, {}});
      Merged& found = position->second;
      found.entry.added = std::min(found.entry.added, entry.added);
      found.entry.used = std::max(found.entry.used, entry.used);
      found.tiers.push_back(name);
    }
  }
  return merged;
}

uint64_t SinceMs(absl::Time then, absl::Time now) {
  return then < now ? absl::ToInt64Milliseconds(now - then) : 0;
}

void Show(const Merged& merged, const PinTable& pins, absl::Time now, cache::v1::Entry* entry) {
  entry->set_key(std::string(merged.entry.key.AsBytes()));
  entry->set_layers(merged.entry.shape.layers);
  entry->set_slice_bytes(merged.entry.shape.slice_bytes);
  if (merged.entry.tenant != Tenant()) {
    entry->set_tenant(std::string(merged.entry.tenant.AsBytes()));
  }
  for (const std::string& tier : merged.tiers) entry->add_tiers(tier);
  entry->set_age_ms(SinceMs(merged.entry.added, now));
  entry->set_idle_ms(SinceMs(merged.entry.used, now));
  entry->set_pinned_ms(absl::ToInt64Milliseconds(pins.Remaining(merged.entry.key, now)));
}

}  // namespace

absl::Status ListEntries(const ChunkStore& store, const ListRequest& request, absl::Time now,
                         cache::v1::ListResponse* response) {
  if (request.page_size() > kLargestPage) {
    return absl::InvalidArgumentError(absl::StrCat("page_size is at most ", kLargestPage));
  }
  const size_t page = request.page_size() == 0 ? kDefaultPage : request.page_size();
  ASSIGN_OR_RETURN(const Tenant tenant, Tenant::FromBytes(request.tenant()));
  ASSIGN_OR_RETURN(const std::optional<Rank> after,
                   ParseToken(request.order(), request.page_token()));
  const absl::flat_hash_map<ChunkKey, Merged> merged = MergeTiers(store);
  std::vector<std::pair<Rank, const Merged*>> rest;
  for (const auto& [key, found] : merged) {
    if (!request.tenant().empty() && found.entry.tenant != tenant) continue;
    const Rank rank = RankOf(request.order(), found.entry);
    if (!after || rank > *after) rest.emplace_back(rank, &found);
  }
  const size_t shown = std::min(page, rest.size());
  std::partial_sort(rest.begin(), rest.begin() + shown, rest.end());
  for (size_t i = 0; i < shown; ++i) {
    Show(*rest[i].second, store.pins(), now, response->add_entries());
  }
  if (shown < rest.size()) {
    response->set_next_page_token(TokenOf(request.order(), rest[shown - 1].first));
  }
  return absl::OkStatus();
}

}  // namespace tessera
