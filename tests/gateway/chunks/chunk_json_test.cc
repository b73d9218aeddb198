#include "gateway/chunks/chunk_json.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace tessera::openai {
namespace {

chunks::v1::ChunkRecord RecordOf(uint32_t tokens, int pieces) {
  chunks::v1::ChunkRecord record;
  record.set_tokens(tokens);
  for (int i = 0; i < pieces; ++i) record.add_piece_keys(absl::StrCat("key", i));
  return record;
}

TEST(ChunkJsonTest, CachedTokensEndAtTheFirstMissingPiece) {
  const chunks::v1::ChunkRecord record = RecordOf(600, 3);
  EXPECT_EQ(CachedTokens(record, {}), 600u);
  EXPECT_EQ(CachedTokens(record, {"key2"}), 512u);
  EXPECT_EQ(CachedTokens(record, {"key1"}), 256u);
  EXPECT_EQ(CachedTokens(record, {"key0"}), 0u);
  EXPECT_EQ(CachedTokens(RecordOf(513, 3), {"key2"}), 512u);
  EXPECT_EQ(CachedTokens(RecordOf(257, 2), {"key1"}), 256u);
  EXPECT_EQ(CachedTokens(RecordOf(130, 3), {"key2"}), 128u);
  EXPECT_EQ(CachedTokens(RecordOf(5, 1), {"key0"}), 0u);
}

TEST(ChunkJsonTest, IdsAreKeys) {
  const std::string key(32, '\xa5');
  const std::string id = ChunkId(key);
  EXPECT_EQ(id, "chunk-a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5");
  EXPECT_EQ(ParseChunkId(id).value(), key);
  for (const std::string& wrong :
       {std::string(), std::string("chunk"), id.substr(0, 69), id + "0", "Chunk" + id.substr(5),
        "chunk-" + std::string(64, 'A'), "chunk-" + std::string(64, 'g')}) {
    EXPECT_FALSE(ParseChunkId(wrong).ok()) << wrong;
  }
}

TEST(ChunkJsonTest, SaltsHaveTenantsOfTheirOwn) {
  EXPECT_EQ(RecordTenant("").size(), 16u);
  EXPECT_NE(RecordTenant(""), RecordTenant("a"));
  EXPECT_EQ(RecordKey("k").size(), 32u);
  EXPECT_NE(RecordKey("k"), RecordKey("l"));
}

TEST(ChunkJsonTest, AnUnknownPinIsNotShownAsNone) {
  FoundRecord found = {RecordOf(1, 1), std::nullopt};
  EXPECT_FALSE(ChunkObject(found, {}).contains("pinned_until"));
  found.pinned = absl::ZeroDuration();
  EXPECT_TRUE(ChunkObject(found, {}).at("pinned_until").is_null());
  found.pinned = absl::Minutes(1);
  EXPECT_TRUE(ChunkObject(found, {}).at("pinned_until").is_int64());
}

}  // namespace
}  // namespace tessera::openai
