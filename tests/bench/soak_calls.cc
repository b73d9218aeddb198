// The calls of a SoakClient that go past the client library: life-cycle, and broken streams.
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "cache_server/chunk/checksum.h"
#include "glog/logging.h"
#include "tests/bench/soak_client.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::bench {
namespace {

using cache::v1::KvCache;
using testing::TestBytes;
using testing::TestKey;

constexpr absl::Duration kTimeout = absl::Seconds(20);
constexpr size_t kDeletedRemembered = 32;
constexpr size_t kPartBytes = 1 << 20;

std::string RawKey(uint32_t number) { return std::string(TestKey(number).AsBytes()); }

void SetDeadline(grpc::ClientContext* context, absl::Duration timeout) {
  context->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
}

}  // namespace

std::unique_ptr<KvCache::Stub> MakeSoakStub(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Otherwise all stubs of this process share one connection, and none is ever cut.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return KvCache::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

template <typename Request>
Request SoakClient::KeysOf(const std::vector<uint32_t>& numbers) const {
  Request request;
  for (const uint32_t number : numbers) request.add_keys(RawKey(number));
  return request;
}

template <typename Method, typename Request, typename Response>
bool SoakClient::Call(const std::string& name, Method method, const Request& request,
                      Response* response) {
  grpc::ClientContext context;
  SetDeadline(&context, kTimeout);
  const grpc::Status status = (stub_.get()->*method)(&context, request, response);
  tally_->Add(name);
  if (status.ok()) return true;
  tally_->Add(kFailedCalls);
  LOG(WARNING) << "event=failed_call call=\"" << name << "\" code=" << status.error_code()
               << " error=\"" << status.error_message() << "\"";
  return false;
}

void SoakClient::Pin() {
  auto request = KeysOf<cache::v1::PinRequest>(PickRun(3));
  request.set_ttl_ms(100 + random_() % 3000);
  cache::v1::PinResponse response;
  Call("pins", &KvCache::Stub::Pin, request, &response);
  tally_->Add("pieces pinned", response.pinned());
  tally_->Add("pins refused", response.refused());
}

void SoakClient::Unpin() {
  cache::v1::UnpinResponse response;
  Call("unpins", &KvCache::Stub::Unpin, KeysOf<cache::v1::UnpinRequest>(PickRun(8)), &response);
}

void SoakClient::Prefetch() {
  cache::v1::PrefetchResponse response;
  Call("prefetches", &KvCache::Stub::Prefetch, KeysOf<cache::v1::PrefetchRequest>(PickRun(4)),
       &response);
  tally_->Add("pieces prefetched from disk", response.loaded());
}

void SoakClient::Delete() {
  cache::v1::DeleteResponse response;
  Call("deletes", &KvCache::Stub::Delete, KeysOf<cache::v1::DeleteRequest>(PickRun(4)), &response);
  tally_->Add("pieces deleted", response.deleted());
}

void SoakClient::DeleteFresh() {
  const uint32_t number = Fresh();
  const PieceShape shape = SoakShape(number);
  const std::vector<std::byte> bytes = TestBytes(number, shape);
  client_->Store({{TestKey(number), shape.layers, shape.slice_bytes, bytes.data()}}, kTimeout);
  cache::v1::DeleteResponse response;
  const auto request = KeysOf<cache::v1::DeleteRequest>({number});
  if (!Call("deletes of what was just stored", &KvCache::Stub::Delete, request, &response)) return;
  deleted_.push_back(number);
  if (deleted_.size() > kDeletedRemembered) deleted_.pop_front();
  CheckDeleted();
}

void SoakClient::CheckDeleted() {
  if (deleted_.empty()) return;
  const std::vector<uint32_t> numbers(deleted_.begin(), deleted_.end());
  for (const uint32_t number : Present(numbers)) {
    tally_->Add(kDeletedSeen);
    LOG(ERROR) << kSoakViolation << " what=deleted_piece_seen number=" << number
               << " key=" << TestKey(number).ToHex();
    deleted_.erase(std::remove(deleted_.begin(), deleted_.end(), number), deleted_.end());
  }
}

std::vector<uint32_t> SoakClient::Present(const std::vector<uint32_t>& numbers) {
  cache::v1::FindMissingResponse response;
  const auto request = KeysOf<cache::v1::FindMissingRequest>(numbers);
  if (!Call("questions what is missing", &KvCache::Stub::FindMissing, request, &response)) {
    return {};
  }
  std::vector<uint32_t> present;
  for (const uint32_t number : numbers) {
    const auto& missing = response.missing_keys();
    if (std::find(missing.begin(), missing.end(), RawKey(number)) == missing.end()) {
      present.push_back(number);
    }
  }
  return present;
}

void SoakClient::List() {
  cache::v1::ListRequest request;
  request.set_order(Chance(0.5) ? cache::v1::ListRequest::OLDEST : cache::v1::ListRequest::LARGEST);
  request.set_page_size(200);
  // Some leave in the middle.
  for (int pages = 1 + random_() % 4; pages > 0; --pages) {
    cache::v1::ListResponse response;
    if (!Call("pages listed", &KvCache::Stub::List, request, &response)) return;
    if (response.next_page_token().empty()) return;
    request.set_page_token(response.next_page_token());
  }
}

void SoakClient::Watch() {
  grpc::ClientContext context;
  SetDeadline(&context, absl::Seconds(2));
  const auto reader = stub_->Watch(&context, cache::v1::WatchRequest());
  cache::v1::WatchEvent event;
  uint64_t events = 0;
  for (size_t left = random_() % 200; left > 0 && reader->Read(&event); --left) ++events;
  context.TryCancel();
  while (reader->Read(&event)) ++events;
  reader->Finish();
  tally_->Add("watches");
  tally_->Add("events seen", events);
}

void SoakClient::Flush() {
  cache::v1::FlushResponse response;
  Call("flushes", &KvCache::Stub::Flush, KeysOf<cache::v1::FlushRequest>(PickRun(2)), &response);
}

void SoakClient::CutFetch() {
  grpc::ClientContext context;
  SetDeadline(&context, kTimeout);
  const auto reader = stub_->Fetch(&context, KeysOf<cache::v1::FetchRequest>(PickRun(4)));
  cache::v1::FetchResponse part;
  for (size_t left = random_() % 12; left > 0 && reader->Read(&part); --left) {
  }
  context.TryCancel();
  reader->Finish();
  tally_->Add("fetch streams cancelled");
}

void SoakClient::StallFetch() {
  grpc::ClientContext context;
  SetDeadline(&context, kTimeout);
  // Enough that it does not fit into what lies between the server and us.
  std::vector<uint32_t> numbers;
  for (uint32_t number = 11; number < 100; number += 12) numbers.push_back(number);
  const auto reader = stub_->Fetch(&context, KeysOf<cache::v1::FetchRequest>(numbers));
  cache::v1::FetchResponse part;
  reader->Read(&part);
  absl::SleepFor(options_.lease + absl::Milliseconds(random_() % 2000));
  while (reader->Read(&part)) {
  }
  tally_->Add("stalls of fetch streams");
  if (!reader->Finish().ok()) tally_->Add("stalled fetch streams cut off");
}

void SoakClient::CutStore() {
  const uint32_t number = Fresh();
  const PieceShape shape = SoakShape(number);
  const std::vector<std::byte> bytes = TestBytes(number, shape);
  grpc::ClientContext context;
  SetDeadline(&context, kTimeout);
  cache::v1::StoreResponse response;
  const auto writer = stub_->Store(&context, &response);
  cache::v1::StoreRequest request;
  request.mutable_header()->set_key(RawKey(number));
  request.mutable_header()->set_layers(shape.layers);
  request.mutable_header()->set_slice_bytes(shape.slice_bytes);
  bool open = writer->Write(request);
  // Never the last slice, nor more than a message of any.
  const uint32_t layers = random_() % shape.layers;
  for (uint32_t layer = 0; open && layer < layers && shape.slice_bytes <= kPartBytes; ++layer) {
    const std::byte* slice = bytes.data() + layer * shape.slice_bytes;
    cache::v1::Slice* part = request.mutable_slice();
    part->set_layer(layer);
    part->set_checksum(SliceChecksum({slice, shape.slice_bytes}));
    part->set_payload(slice, shape.slice_bytes);
    open = writer->Write(request);
  }
  if (Chance(0.5)) {
    context.TryCancel();
  } else {
    writer->WritesDone();
  }
  writer->Finish();
  tally_->Add("store streams cut off");
  if (Present({number}).empty()) return;
  tally_->Add(kUnfinishedSeen);
  LOG(ERROR) << kSoakViolation << " what=unfinished_piece_seen number=" << number;
}

}  // namespace tessera::bench
