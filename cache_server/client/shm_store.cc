#include "cache_server/client/shm_store.h"

#include <cstring>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cache_server/chunk/checksum.h"

namespace tessera {

absl::Status ShmStore::Run() {
  RETURN_IF_ERROR(StoreWhatIsMissing());
  // So that the server knows that this was all of it.
  return connection_.NameRequest("", deadline_);
}

absl::Status ShmStore::StoreWhatIsMissing() {
  const absl::Status named = connection_.NameRequest(request_id_, deadline_);
  const absl::StatusOr<std::vector<StoreSource>> missing =
      named.ok() ? FindMissing() : absl::StatusOr<std::vector<StoreSource>>(named);
  if (!missing.ok()) {
    left_.assign(sources_.begin(), sources_.end());
    return missing.status();
  }
  return StoreAll(*missing);
}

absl::Status ShmStore::StoreAll(const std::vector<StoreSource>& missing) {
  absl::Status status;
  for (size_t i = 0; i < missing.size(); ++i) {
    status = Put(missing[i]);
    if (status.ok()) continue;
    left_.insert(left_.end(), missing.begin() + static_cast<ptrdiff_t>(i), missing.end());
    break;
  }
  if (status.ok()) status = Collect();
  for (size_t i = answered_; i < outstanding_.size(); ++i) left_.push_back(outstanding_[i].source);
  return status;
}

absl::StatusOr<absl::Span<const std::byte>> ShmStore::Answer(ShmType type, uint64_t call) {
  while (true) {
    ASSIGN_OR_RETURN(const absl::Span<const std::byte> packet, connection_.Receive(deadline_));
    ASSIGN_OR_RETURN(const ShmHead head, ReadShmHead(packet));
    // News for a fetch that used this connection before.
    if (head.type == static_cast<uint32_t>(ShmType::kLoaded)) continue;
    if (head.call != call) return absl::InvalidArgumentError("an answer to another call");
    if (head.type == static_cast<uint32_t>(type)) return packet;
    ASSIGN_OR_RETURN(const std::string why, ReadShmText(packet));
    return absl::UnavailableError(absl::StrCat("the server refused: ", why));
  }
}

absl::StatusOr<std::vector<StoreSource>> ShmStore::FindMissing() {
  const size_t most = connection_.mapping()->welcome.most_keys;
  if (most == 0) return absl::InvalidArgumentError("a server that takes no keys");
  std::vector<StoreSource> missing;
  absl::flat_hash_set<ChunkKey> seen;
  for (size_t first = 0; first < sources_.size(); first += most) {
    const absl::Span<const StoreSource> some = sources_.subspan(first, most);
    std::vector<ChunkKey> keys;
    for (const StoreSource& source : some) keys.push_back(source.key);
    const uint64_t call = connection_.NextCall();
    RETURN_IF_ERROR(connection_.Send(
        MakeShmPacket(ShmType::kFind, call, ShmNothing(), absl::MakeConstSpan(keys)), deadline_));
    ASSIGN_OR_RETURN(const absl::Span<const std::byte> answer, Answer(ShmType::kFound, call));
    ASSIGN_OR_RETURN(const std::vector<uint8_t> present,
                     ReadShmRecords<uint8_t>(answer, some.size()));
    if (present.size() != some.size()) return absl::InvalidArgumentError("too few answers");
    for (size_t i = 0; i < some.size(); ++i) {
      const bool sendable = ShmStagedBytes(some[i].layers, some[i].slice_bytes) > 0;
      if (sendable && present[i] == 0 && seen.insert(some[i].key).second) {
        missing.push_back(some[i]);
      }
    }
  }
  return missing;
}

absl::Status ShmStore::Put(const StoreSource& source) {
  if (staging_ == nullptr) {
    ASSIGN_OR_RETURN(staging_, connection_.Staging(deadline_));
  }
  const uint64_t bytes = ShmStagedBytes(source.layers, source.slice_bytes);
  if (bytes > staging_->size()) {
    left_.push_back(source);
    return absl::OkStatus();
  }
  if (bytes > staging_->size() - used_) RETURN_IF_ERROR(Collect());
  if (outstanding_.size() - answered_ >= kMostShmPuts) RETURN_IF_ERROR(CollectOne());
  std::byte* const slices = staging_->mutable_data() + used_;
  std::byte* const checksums = slices + source.layers * source.slice_bytes;
  for (uint32_t layer = 0; layer < source.layers; ++layer) {
    std::byte* const slice = slices + layer * source.slice_bytes;
    std::memcpy(slice, source.memory + layer * source.slice_bytes, source.slice_bytes);
    const uint64_t checksum = SliceChecksum({slice, source.slice_bytes});
    std::memcpy(checksums + layer * sizeof(checksum), &checksum, sizeof(checksum));
  }
  const uint64_t call = connection_.NextCall();
  const ShmPut put = {.key = source.key,
                      .tenant = source.tenant.bytes,
                      .at = used_,
                      .slice_bytes = source.slice_bytes,
                      .layers = source.layers};
  RETURN_IF_ERROR(connection_.Send(MakeShmPacket(ShmType::kPut, call, put), deadline_));
  used_ += bytes;
  outstanding_.push_back({call, source});
  return absl::OkStatus();
}

absl::Status ShmStore::Collect() {
  while (answered_ < outstanding_.size()) RETURN_IF_ERROR(CollectOne());
  outstanding_.clear();
  answered_ = 0;
  used_ = 0;
  return absl::OkStatus();
}

absl::Status ShmStore::CollectOne() {
  const Outstanding& oldest = outstanding_[answered_];
  ASSIGN_OR_RETURN(const absl::Span<const std::byte> answer,
                   Answer(ShmType::kPutDone, oldest.call));
  ASSIGN_OR_RETURN(const ShmPutDone done, ReadShmFixed<ShmPutDone>(answer));
  const auto result = static_cast<ShmPutResult>(done.result);
  if (result == ShmPutResult::kDataLoss) ++damaged_;
  if (result == ShmPutResult::kStored) {
    ++stored_;
    stored_bytes_ += oldest.source.layers * oldest.source.slice_bytes;
  }
  ++answered_;
  return absl::OkStatus();
}

}  // namespace tessera
