// The service as any client sees it: through the generated stub, message by message.
#include "cache_server/service/server.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cache_server/chunk/checksum.h"
#include "gtest/gtest.h"
#include "proto/kv_cache.grpc.pb.h"
#include "tests/cache_server/testing/server_fixture.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 3, .slice_bytes = 5000};
constexpr absl::Duration kLong = absl::Seconds(30);

class ServerTest : public ServerFixture {
 protected:
  void Start() {
    StartServer();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetMaxReceiveMessageSize(16 << 20);
    stub_ = cache::v1::KvCache::NewStub(
        grpc::CreateCustomChannel(address(), grpc::InsecureChannelCredentials(), arguments));
  }

  static std::string Raw(uint32_t number) { return std::string(TestKey(number).AsBytes()); }
  static cache::v1::FetchRequest FetchRequestOf(const std::vector<uint32_t>& numbers) {
    cache::v1::FetchRequest request;
    for (uint32_t number : numbers) request.add_keys(Raw(number));
    return request;
  }
  // The messages of test piece `number`, one slice each.
  static std::vector<cache::v1::StoreRequest> StoreMessages(uint32_t number, PieceShape shape) {
    std::vector<cache::v1::StoreRequest> messages(1 + shape.layers);
    messages[0].mutable_header()->set_key(Raw(number));
    messages[0].mutable_header()->set_layers(shape.layers);
    messages[0].mutable_header()->set_slice_bytes(shape.slice_bytes);
    const std::vector<std::byte> bytes = TestBytes(number, shape);
    for (uint32_t layer = 0; layer < shape.layers; ++layer) {
      const auto slice =
          absl::MakeConstSpan(bytes).subspan(layer * shape.slice_bytes, shape.slice_bytes);
      cache::v1::Slice* part = messages[1 + layer].mutable_slice();
      part->set_layer(layer);
      part->set_checksum(SliceChecksum(slice));
      part->set_payload(slice.data(), slice.size());
    }
    return messages;
  }
  grpc::Status Store(const std::vector<cache::v1::StoreRequest>& messages,
                     cache::v1::StoreResponse* response) {
    grpc::ClientContext context;
    const auto writer = stub_->Store(&context, response);
    for (const auto& message : messages) writer->Write(message);
    writer->WritesDone();
    return writer->Finish();
  }
  grpc::StatusCode FetchCode(const cache::v1::FetchRequest& request) {
    grpc::ClientContext context;
    cache::v1::FetchResponse response;
    const auto reader = stub_->Fetch(&context, request);
    while (reader->Read(&response)) {
    }
    return reader->Finish().error_code();
  }

  std::unique_ptr<cache::v1::KvCache::Stub> stub_;
};

TEST_F(ServerTest, Capabilities) {
  options_.max_keys_per_call = 300;
  Start();
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  cache::v1::GetCapabilitiesResponse first, second;
  for (auto* response : {&first, &second}) {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->GetCapabilities(&context, {}, response).ok());
  }
  EXPECT_EQ(first.protocol_version(), 1u);
  EXPECT_EQ(first.max_keys_per_call(), 300u);
  EXPECT_EQ(first.max_slice_bytes(), options_.max_slice_bytes);
  ASSERT_EQ(first.tiers_size(), 1);
  EXPECT_EQ(first.tiers(0).name(), "ram");
  EXPECT_EQ(first.tiers(0).entries(), 1u);
  EXPECT_EQ(first.instance_id(), second.instance_id());
  server_->Stop(absl::ZeroDuration());
  Start();
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->GetCapabilities(&context, {}, &second).ok());
  EXPECT_NE(first.instance_id(), second.instance_id());
}

TEST_F(ServerTest, FindMissingNamesEachOnce) {
  Start();
  ASSERT_TRUE(PutTestPiece(store_.get(), 2, kShape).ok());
  cache::v1::FindMissingRequest request;
  for (uint32_t number : {3, 2, 1, 3}) request.add_keys(Raw(number));
  cache::v1::FindMissingResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->FindMissing(&context, request, &response).ok());
  ASSERT_EQ(response.missing_keys_size(), 2);
  EXPECT_EQ(response.missing_keys(0), Raw(3));
  EXPECT_EQ(response.missing_keys(1), Raw(1));
}

TEST_F(ServerTest, FetchIsLayerMajor) {
  options_.message_bytes = 2000;
  Start();
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(store_.get(), 2, {.layers = 2, .slice_bytes = 1500}).ok());
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, FetchRequestOf({1, 9, 2}));
  cache::v1::FetchResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_EQ(response.header().keys_size(), 3);
  EXPECT_TRUE(response.header().keys(0).found());
  EXPECT_EQ(response.header().keys(0).tier(), "ram");
  EXPECT_FALSE(response.header().keys(1).found());
  EXPECT_EQ(response.header().keys(2).slice_bytes(), 1500u);
  std::string order;
  while (reader->Read(&response)) {
    const cache::v1::Slice& part = response.slice();
    absl::StrAppend(&order, part.layer(), ":", part.key_index(), "+", part.offset(), " ");
    const std::vector<std::byte> bytes = TestBytes(
        part.key_index() == 0 ? 1 : 2, part.key_index() == 0 ? kShape : PieceShape{2, 1500});
    const uint64_t slice_bytes = part.key_index() == 0 ? 5000 : 1500;
    EXPECT_EQ(std::memcmp(part.payload().data(),
                          bytes.data() + part.layer() * slice_bytes + part.offset(),
                          part.payload().size()),
              0);
    EXPECT_EQ(part.checksum(),
              SliceChecksum({bytes.data() + part.layer() * slice_bytes, slice_bytes}));
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(order,
            "0:0+0 0:0+2000 0:0+4000 0:2+0 1:0+0 1:0+2000 1:0+4000 1:2+0 "
            "2:0+0 2:0+2000 2:0+4000 ");
}

TEST_F(ServerTest, LimitsOnKeys) {
  options_.max_keys_per_call = 2;
  Start();
  EXPECT_EQ(FetchCode(FetchRequestOf({1, 2})), grpc::StatusCode::OK);
  EXPECT_EQ(FetchCode(FetchRequestOf({1, 2, 3})), grpc::StatusCode::INVALID_ARGUMENT);
  cache::v1::FetchRequest short_key;
  short_key.add_keys("short");
  EXPECT_EQ(FetchCode(short_key), grpc::StatusCode::INVALID_ARGUMENT);
  cache::v1::FindMissingRequest request;
  for (uint32_t number : {1, 2, 3}) request.add_keys(Raw(number));
  cache::v1::FindMissingResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(stub_->FindMissing(&context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  // The server ends its side of a stream a moment after the client has its status.
  while (server_->open_fetches() > 0) std::this_thread::yield();
}

TEST_F(ServerTest, StoreIsVisibleAtItsEnd) {
  Start();
  std::vector<cache::v1::StoreRequest> messages = StoreMessages(1, kShape);
  for (const auto& message : StoreMessages(2, kShape)) messages.push_back(message);
  for (const auto& message : StoreMessages(1, kShape)) messages.push_back(message);
  cache::v1::StoreResponse response;
  ASSERT_TRUE(Store(messages, &response).ok());
  EXPECT_EQ(response.stored(), 2u);
  EXPECT_EQ(response.already_present(), 1u);
  EXPECT_TRUE(HoldsTestPiece(store_->Get(TestKey(2))->handle, 2));
}

TEST_F(ServerTest, IncompleteStoreIsInvisible) {
  Start();
  std::vector<cache::v1::StoreRequest> messages = StoreMessages(1, kShape);
  messages.pop_back();
  cache::v1::StoreResponse response;
  EXPECT_EQ(Store(messages, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(entries(), 0u);
  EXPECT_EQ(store_->Stats()[0].used_bytes, 0u);
}

TEST_F(ServerTest, CorruptedSliceIsDataLoss) {
  Start();
  std::vector<cache::v1::StoreRequest> messages = StoreMessages(1, kShape);
  (*messages[2].mutable_slice()->mutable_payload())[10] ^= 1;
  cache::v1::StoreResponse response;
  EXPECT_EQ(Store(messages, &response).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(entries(), 0u);
}

TEST_F(ServerTest, TooLargeSliceIsRejected) {
  options_.max_slice_bytes = 1000;
  Start();
  cache::v1::StoreResponse response;
  ASSERT_TRUE(Store(StoreMessages(1, kShape), &response).ok());
  EXPECT_EQ(response.rejected(), 1u);
  EXPECT_EQ(entries(), 0u);
}

TEST_F(ServerTest, UnfinishedStoreHasADeadline) {
  options_.store_timeout = absl::Milliseconds(200);
  Start();
  const auto messages = StoreMessages(1, kShape);
  grpc::ClientContext context;
  cache::v1::StoreResponse response;
  const auto writer = stub_->Store(&context, &response);
  ASSERT_TRUE(writer->Write(messages[0]));
  ASSERT_TRUE(writer->Write(messages[1]));
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(store_->Stats()[0].used_bytes, 0u);
}

TEST_F(ServerTest, CancelledStoreLeavesNothing) {
  Start();
  const auto messages = StoreMessages(1, kShape);
  cache::v1::StoreResponse response;
  {
    grpc::ClientContext context;
    const auto writer = stub_->Store(&context, &response);
    ASSERT_TRUE(writer->Write(messages[0]));
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  server_->Stop(kLong);
  EXPECT_EQ(server_->open_stores(), 0u);
  EXPECT_EQ(store_->Stats()[0].used_bytes, 0u);
}

// A piece set that no buffer on the way can hold: a stream that is not read stays open.
class OpenStreamTest : public ServerTest {
 protected:
  void SetUp() override {
    for (uint32_t number = 0; number < 16; ++number) {
      ASSERT_TRUE(PutTestPiece(store_.get(), number, {.layers = 4, .slice_bytes = 4 << 20}).ok());
    }
    for (uint32_t number = 0; number < 16; ++number) all_.push_back(number);
  }

  std::vector<uint32_t> all_;
  cache::v1::FetchResponse response_;
};

TEST_F(OpenStreamTest, CancelMidStreamFreesThePins) {
  Start();
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, FetchRequestOf(all_));
  ASSERT_TRUE(reader->Read(&response_));
  EXPECT_EQ(server_->open_fetches(), 1u);
  EXPECT_GT(control_->pins(), 0);
  context.TryCancel();
  EXPECT_TRUE(control_->WaitForNoPins(kLong));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(OpenStreamTest, AReaderThatSleepsLosesItsLease) {
  options_.lease = absl::Milliseconds(300);
  Start();
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, FetchRequestOf(all_));
  ASSERT_TRUE(reader->Read(&response_));
  EXPECT_TRUE(control_->WaitForNoPins(kLong));
  while (reader->Read(&response_)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(OpenStreamTest, TooManyOpenFetches) {
  options_.max_open_fetches = 1;
  Start();
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, FetchRequestOf(all_));
  ASSERT_TRUE(reader->Read(&response_));
  EXPECT_EQ(FetchCode(FetchRequestOf({1})), grpc::StatusCode::RESOURCE_EXHAUSTED);
  context.TryCancel();
  ASSERT_TRUE(control_->WaitForNoPins(kLong));
  while (server_->open_fetches() > 0) std::this_thread::yield();
  EXPECT_EQ(FetchCode(FetchRequestOf({1})), grpc::StatusCode::OK);
}

TEST_F(OpenStreamTest, PinnedPiecesSurviveErase) {
  Start();
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, FetchRequestOf(all_));
  ASSERT_TRUE(reader->Read(&response_));
  for (uint32_t number : all_) ASSERT_TRUE(store_->Erase(TestKey(number)));
  EXPECT_EQ(entries(), 0u);
  uint64_t bytes = 0;
  while (reader->Read(&response_)) bytes += response_.slice().payload().size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, uint64_t{16} * 4 * (4 << 20));
  EXPECT_TRUE(control_->WaitForNoPins(kLong));
}

TEST_F(OpenStreamTest, StopCancelsWhatOutlastsItsGrace) {
  Start();
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, FetchRequestOf(all_));
  ASSERT_TRUE(reader->Read(&response_));
  server_->Stop(absl::Milliseconds(100));
  while (reader->Read(&response_)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_TRUE(control_->WaitForNoPins(kLong));
}

TEST_F(ServerTest, TakenAddressesAreErrors) {
  Start();
  ServerOptions second = options_;
  second.listen = address();
  EXPECT_EQ(CacheServer::Start(second, parts()).status().code(),
            absl::StatusCode::kUnavailable);
  second.listen = absl::StrCat("unix:/tmp/tessera_server_test_", getpid());
  const auto on_socket = CacheServer::Start(second, parts());
  ASSERT_TRUE(on_socket.ok());
  EXPECT_EQ((*on_socket)->port(), 0);
  EXPECT_EQ(CacheServer::Start(second, parts()).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(ServerTest, ImpossibleOptions) {
  for (int i = 0; i < 5; ++i) {
    ServerOptions options = options_;
    if (i == 0) options.message_bytes = 0;
    if (i == 1) options.message_bytes = kMaxPartBytes + 1;
    if (i == 2) options.max_keys_per_call = 0;
    if (i == 3) options.max_open_fetches = 0;
    if (i == 4) options.lease = absl::ZeroDuration();
    EXPECT_EQ(CacheServer::Start(options, parts()).status().code(),
              absl::StatusCode::kInvalidArgument)
        << i;
  }
}

}  // namespace
}  // namespace tessera::testing
