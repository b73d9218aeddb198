// Store streams of arbitrary messages, into a small store.
//
// The input is a byte of options, then steps: a byte that says which, then its arguments. Steps
// send well-formed messages, nearly well-formed ones and raw bytes, each in fragments, end streams,
// or do what others do to the store meanwhile. What must be in the store is known from what the
// writer accepted: a piece is there only if all of its bytes were, and then it has exactly these
// bytes, with right checksums; and the memory's limit holds.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "cache_server/chunk/checksum.h"
#include "cache_server/chunk/shared_memory.h"
#include "cache_server/service/piece_writer.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/ram_tier.h"
#include "cache_server/transfer/slice_wire.h"
#include "glog/logging.h"
#include "proto/kv_cache.pb.h"
#include "tests/fuzz/input.h"

namespace tessera::fuzz {
namespace {

constexpr uint64_t kMemoryBytes = 128 << 10;
constexpr uint64_t kMaxSliceBytes = 48 << 10;
constexpr uint64_t kTenantBytes = 64 << 10;
constexpr int kMostSteps = 256;
constexpr size_t kMostHeld = 8;

// A piece as its stream sent it.
struct Sent {
  PieceShape shape;
  Tenant tenant;
  std::vector<std::byte> bytes;
  std::vector<uint64_t> checksums;
};

ChunkStore* NewStore(uint8_t options) {
  auto memory = SharedMemory::Create(kMemoryBytes, /*huge_pages=*/false);
  CHECK(memory.ok()) << memory.status();
  RamTierOptions ram;
  ram.eviction = (options & 1) != 0 ? EvictionKind::kS3Fifo : EvictionKind::kLru;
  ram.evict_from = (options & 2) != 0 ? 1 : 0.75;
  if ((options & 4) != 0) ram.tenant_bytes = kTenantBytes;
  std::vector<std::unique_ptr<Tier>> tiers;
  tiers.push_back(MakeRamTier(*std::move(memory), ram));
  ChunkStoreOptions store;
  store.loader.threads = 1;
  return new ChunkStore(std::move(tiers), store);
}

// A store with these options, empty. Kept from input to input, since its threads cost more than
// most inputs do.
ChunkStore* StoreWith(uint8_t options) {
  static std::array<ChunkStore*, 8> stores = {};
  ChunkStore*& store = stores[options % stores.size()];
  if (store == nullptr) store = NewStore(options);
  return store;
}

// Byte `i` of what the well-formed parts of a piece carry.
std::byte ByteAt(uint8_t seed, uint64_t i) { return static_cast<std::byte>(seed + (i * 7 >> 3)); }

class StoreStream {
 public:
  explicit StoreStream(Input input)
      : input_(input), store_(StoreWith(input_.Byte())), writer_(NewWriter()) {}

  void Run() {
    for (int step = 0; step < kMostSteps && !input_.empty(); ++step) Step();
    EndStream(/*cut=*/true);
    held_.clear();
    CheckStore();
    uint64_t bytes = 0;
    for (const TierEntry& entry : store_->tiers()[0]->List()) {
      bytes += RamTierBytes(entry.shape);
      CHECK(stored_.contains(entry.key)) << "an entry that nobody sent";
    }
    CHECK_EQ(store_->Stats()[0].used_bytes, bytes) << "bytes that nobody has";
    for (const auto& [key, sent] : stored_) store_->Erase(key);
    CHECK_EQ(store_->Stats()[0].used_bytes, 0u);
  }

 private:
  std::unique_ptr<PieceWriter> NewWriter() {
    return std::make_unique<PieceWriter>(store_, kMaxSliceBytes);
  }

  void Step();
  void SendHeader();
  void SendPart(bool wrong);
  // What the next part of the open piece should carry: its wire bytes.
  std::string PartMessage(SlicePart part, uint64_t bytes) const;
  void SendDamaged();
  void DisturbStore();

  // A message arrives; an error ends the stream, as it does in the service.
  void Send(std::string message);
  absl::Status Take(const ReceivedMessage& message);
  void NoteHeader(const cache::v1::StoreHeader& header);
  void NotePart(const ReceivedMessage& message);
  void EndStream(bool cut);

  void CheckStore();
  void CheckPiece(const ChunkKey& key);

  Input input_;
  ChunkStore* const store_;
  std::unique_ptr<PieceWriter> writer_;
  std::string last_message_;
  uint8_t split_ = 0;  // how messages are cut into fragments

  // The piece that the stream is within, and the writer's counts when it began.
  std::optional<ChunkKey> open_;
  Sent sent_;
  uint8_t seed_ = 0;

  std::map<ChunkKey, Sent> stored_;  // every key ever named; with bytes: was committed last
  std::vector<std::pair<ChunkKey, ReadHandle>> held_;
};

void StoreStream::Step() {
  switch (input_.Byte() % 8) {
    case 0:
      return SendHeader();
    case 1:
    case 2:
      return SendPart(/*wrong=*/false);
    case 3:
      return SendPart(/*wrong=*/true);
    case 4: {
      const auto bytes = input_.Bytes(input_.Byte());
      return Send(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    }
    case 5:
      return SendDamaged();
    case 6:
      return EndStream(input_.Byte() % 2 != 0);
    default:
      return DisturbStore();
  }
}

void StoreStream::SendHeader() {
  seed_ = input_.Byte();
  split_ = input_.Byte();
  cache::v1::StoreRequest request;
  cache::v1::StoreHeader& header = *request.mutable_header();
  header.set_key(MakePieceKey(ChunkKey(), 256, seed_ % 16).AsBytes().data(), 32);
  const uint8_t layers = input_.Byte();
  header.set_layers(layers < 250 ? 1 + layers % 4 : uint32_t{1} << (layers - 225));
  const uint64_t slice_bytes = uint64_t{input_.Number<uint16_t>()};
  header.set_slice_bytes(slice_bytes < 65000 ? slice_bytes : slice_bytes << (slice_bytes % 48));
  const uint8_t tenant = input_.Byte();
  if (tenant != 0) header.set_tenant(std::string(tenant < 250 ? 16 : tenant - 240, tenant % 3));
  Send(request.SerializeAsString());
}

std::string StoreStream::PartMessage(SlicePart part, uint64_t bytes) const {
  std::vector<std::byte> slice(std::min(sent_.shape.slice_bytes, kMaxSliceBytes));
  const uint64_t start = part.layer * sent_.shape.slice_bytes;
  for (uint64_t i = 0; i < slice.size(); ++i) slice[i] = ByteAt(seed_, start + i);
  part.checksum ^= SliceChecksum(slice);
  std::string message = EncodeSlicePrefix(part, bytes);
  for (uint64_t i = 0; i < bytes; ++i) {
    message.push_back(static_cast<char>(ByteAt(seed_, start + part.offset + i)));
  }
  return message;
}

void StoreStream::SendPart(bool wrong) {
  uint64_t bytes = input_.Number<uint16_t>();
  const uint64_t slice_bytes = std::max<uint64_t>(sent_.shape.slice_bytes, 1);
  const uint64_t sent = sent_.bytes.size();
  SlicePart part = {.layer = static_cast<uint32_t>(sent / slice_bytes),
                    .offset = sent % slice_bytes};
  if (wrong) {
    part.layer += static_cast<int8_t>(input_.Byte());
    part.offset += static_cast<int8_t>(input_.Byte());
    part.checksum = input_.Byte();
  } else {
    bytes = std::min(bytes + 1, slice_bytes - part.offset);
  }
  Send(PartMessage(part, bytes));
}

void StoreStream::SendDamaged() {
  std::string message = last_message_;
  const uint16_t at = input_.Number<uint16_t>();
  const uint8_t change = input_.Byte();
  if (!message.empty()) message[at % message.size()] ^= static_cast<char>(change);
  if (change % 16 == 0) message.resize(at % (message.size() + 1));
  Send(std::move(message));
}

void StoreStream::DisturbStore() {
  const uint8_t what = input_.Byte();
  const ChunkKey key = MakePieceKey(ChunkKey(), 256, what % 16);
  if (what < 96) {
    if (store_->Erase(key)) stored_[key] = Sent();
  } else if (what < 224) {
    auto found = store_->GetFast(key);
    if (found.ok() && held_.size() < kMostHeld) held_.emplace_back(key, std::move(found->handle));
  } else {
    held_.clear();
  }
}

void StoreStream::Send(std::string message) {
  last_message_ = std::move(message);
  // Cut at multiples of a prime, with empty fragments in between.
  std::vector<absl::Span<const std::byte>> fragments;
  const absl::Span<const std::byte> all(reinterpret_cast<const std::byte*>(last_message_.data()),
                                        last_message_.size());
  const size_t step = split_ == 0 ? all.size() + 1 : size_t{1} + split_ * 97;
  for (size_t at = 0; at < all.size(); at += step) {
    fragments.push_back(all.subspan(at, std::min(step, all.size() - at)));
    if (split_ % 2 != 0) fragments.push_back(all.subspan(at, 0));
  }
  absl::Status status;
  if (const auto parsed = ReceivedMessage::Parse(fragments); parsed.ok()) {
    status = Take(*parsed);
  } else {
    status = parsed.status();
  }
  if (!status.ok()) EndStream(/*cut=*/true);
  if (open_) CheckPiece(*open_);
  CHECK_LE(store_->Stats()[0].used_bytes, kMemoryBytes);
}

// As StoreReactor::TakeMessage, and takes notes.
absl::Status StoreStream::Take(const ReceivedMessage& message) {
  if (!message.is_slice()) {
    cache::v1::StoreHeader header;
    if (!header.ParseFromString(message.HeaderBytes())) {
      return absl::InvalidArgumentError("malformed header");
    }
    const absl::Status status =
        writer_->AddHeader(header.key(), {header.layers(), header.slice_bytes()}, header.tenant());
    if (status.ok()) NoteHeader(header);
    return status;
  }
  const uint32_t stored_before = writer_->counts().stored;
  const absl::Status status = writer_->AddPart(message);
  if (!status.ok()) return status;
  CHECK(open_.has_value()) << "a part without a header was accepted";
  NotePart(message);
  const bool whole = sent_.bytes.size() == sent_.shape.bytes();
  if (writer_->counts().stored != stored_before) {
    CHECK(whole) << "stored before its last byte";
    const ChunkKey key = *std::exchange(open_, std::nullopt);
    stored_[key] = std::move(sent_);
    CHECK(store_->GetFast(key).ok()) << "stored, and not there";
    CheckPiece(key);
  } else if (whole) {
    open_.reset();
  }
  if (!open_) sent_ = Sent();
  return status;
}

void StoreStream::NoteHeader(const cache::v1::StoreHeader& header) {
  CHECK(!open_.has_value()) << "a header within a piece was accepted";
  open_ = *ChunkKey::FromBytes(header.key());
  sent_ = {.shape = {header.layers(), header.slice_bytes()},
           .tenant = *Tenant::FromBytes(header.tenant()),
           .bytes = {},
           .checksums = {}};
  stored_.try_emplace(*open_);
}

void StoreStream::NotePart(const ReceivedMessage& message) {
  const SlicePart& part = message.part();
  CHECK_EQ(part.layer * sent_.shape.slice_bytes + part.offset, sent_.bytes.size())
      << "out of order";
  // Exactly as large as the message says, so that a byte too much is found.
  std::vector<std::byte> payload(part.payload_bytes);
  message.CopyPayload(payload.data());
  sent_.bytes.insert(sent_.bytes.end(), payload.begin(), payload.end());
  CHECK_LE(sent_.bytes.size(), sent_.shape.bytes());
  if (sent_.bytes.size() % sent_.shape.slice_bytes == 0) {
    sent_.checksums.push_back(part.checksum);
  }
}

void StoreStream::EndStream(bool cut) {
  if (!cut) {
    const absl::Status status = writer_->Finish();
    CHECK_EQ(status.ok(), !open_.has_value()) << status;
  }
  writer_ = NewWriter();
  open_.reset();
  sent_ = Sent();
  CheckStore();
}

void StoreStream::CheckStore() {
  for (const auto& [key, sent] : stored_) CheckPiece(key);
  for (const auto& [key, handle] : held_) {
    // Pinned: right as long as it is held, whatever became of the entry.
    for (uint32_t layer = 0; layer < handle.layers(); ++layer) {
      CHECK_EQ(SliceChecksum(handle.slice(layer)), handle.checksum(layer));
    }
  }
}

void StoreStream::CheckPiece(const ChunkKey& key) {
  const auto found = store_->GetFast(key);
  if (!found.ok()) return;  // evicted, or never there
  const Sent& sent = stored_[key];
  const ReadHandle& handle = found->handle;
  CHECK(!sent.bytes.empty()) << "visible, and never whole";
  CHECK(handle.shape() == sent.shape && handle.tenant() == sent.tenant);
  for (uint32_t layer = 0; layer < handle.layers(); ++layer) {
    const absl::Span<const std::byte> slice = handle.slice(layer);
    CHECK_EQ(std::memcmp(slice.data(), sent.bytes.data() + layer * slice.size(), slice.size()), 0);
    CHECK_EQ(handle.checksum(layer), sent.checksums[layer]);
    CHECK_EQ(SliceChecksum(slice), handle.checksum(layer));
  }
}

}  // namespace
}  // namespace tessera::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  tessera::fuzz::StoreStream(tessera::fuzz::Input(bytes, size)).Run();
  return 0;
}
