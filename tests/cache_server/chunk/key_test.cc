#include "cache_server/chunk/key.h"

#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "cache_server/chunk/layout.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

ChunkKey CountingFingerprint() {
  ChunkKey key;
  for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>(i);
  return key;
}

// The golden values were computed with Python's hashlib and struct from the byte format that
// digest.h states. A change of any of them makes every stored chunk unreachable.
TEST(ChunkKeyTest, GoldenChunkKey) {
  const std::vector<uint32_t> sink = {1};
  const std::vector<uint32_t> tokens = {10, 20, 30, 49151};
  EXPECT_EQ(MakeChunkKey(CountingFingerprint(), "tenant", sink, tokens).ToHex(),
            "5fd3333775e9d2e80a650f216325d7946ee5001744dd3b38cc2182119478864c");
  EXPECT_EQ(MakeChunkKey(CountingFingerprint(), "", {}, {}).ToHex(),
            "e535726c7e79143e8b9cf7175771df129ea69d5067efaccee980958806d604ae");
}

TEST(ChunkKeyTest, GoldenPieceKey) {
  const std::vector<uint32_t> sink = {1};
  const std::vector<uint32_t> tokens = {10, 20, 30, 49151};
  const ChunkKey chunk = MakeChunkKey(CountingFingerprint(), "tenant", sink, tokens);
  EXPECT_EQ(MakePieceKey(chunk, 256, 0).ToHex(),
            "0a136460250622a358a46c5ed8e48332415e45eee03656140c61e857e593fc59");
  EXPECT_EQ(MakePieceKey(chunk, 256, 7).ToHex(),
            "02ddcee49eb2c9b030c2e831ff46f43001978e0372b8ffe298c8c2017d6299d8");
}

TEST(BlockKeyTest, Golden) {
  const ChunkKey root = MakePrefixRoot(CountingFingerprint(), "tenant");
  EXPECT_EQ(root.ToHex(), "08f4366a529d228c853e1161d3cfcd4e44a1aa4ea3f4498646fe91c885e4285f");
  EXPECT_EQ(MakePrefixRoot(CountingFingerprint(), "").ToHex(),
            "7e05a80f086e4fbb63fe23e818cfb4bc750e0a35903fdee832c11eabb352521f");
  const ChunkKey first = MakeBlockKey(root, {10, 20, 30, 49151});
  EXPECT_EQ(first.ToHex(), "8f80b030d8058744aceb5f0663834a371e1f174cf302d68d55b766b3dacb61a9");
  EXPECT_EQ(MakeBlockKey(first, {7}).ToHex(),
            "3b921fd12783987da979aa89841aae80cc819da37d5bc8404ab0111070412e62");
}

TEST(TenantTest, Golden) {
  EXPECT_EQ(MakeTenant("tenant").ToHex(), "b74cf062ad7e8639c18185f1f13a7676");
  EXPECT_EQ(MakeTenant("").ToHex(), std::string(32, '0'));
}

Layout TestLayout() {
  Layout layout;
  for (int i = 0; i < 32; ++i) layout.model_digest += "ab";
  layout.architecture = "llama";
  layout.layers = 30;
  layout.kv_heads = 3;
  layout.head_dim = 64;
  layout.rope = "theta=10000";
  return layout;
}

TEST(LayoutTest, GoldenFingerprint) {
  EXPECT_EQ(TestLayout().Fingerprint().ToHex(),
            "79030a00efb80dc91b8ce4aabe96495b35da6b43654aa72a7fd2d4793635b218");
}

TEST(LayoutTest, EveryFieldCounts) {
  absl::flat_hash_set<std::string> seen = {TestLayout().Fingerprint().ToHex()};
  const std::vector<void (*)(Layout*)> changes = {
      [](Layout* l) { l->model_digest += "0"; }, [](Layout* l) { l->architecture = "qwen2"; },
      [](Layout* l) { l->layers += 1; },         [](Layout* l) { l->kv_heads += 1; },
      [](Layout* l) { l->head_dim += 1; },       [](Layout* l) { l->dtype = "f16"; },
      [](Layout* l) { l->rope += ";x"; },        [](Layout* l) { l->tp_rank += 1; },
      [](Layout* l) { l->tp_size += 1; },        [](Layout* l) { l->format_version += 1; },
  };
  for (const auto& change : changes) {
    Layout layout = TestLayout();
    change(&layout);
    EXPECT_TRUE(seen.insert(layout.Fingerprint().ToHex()).second);
  }
}

TEST(LayoutTest, BytesOfATokenLayer) {
  EXPECT_EQ(TestLayout().BytesPerTokenLayer(), 768u);  // x 256 tokens = 192 KiB a slice
}

// The same numbers, cut differently between salt, sink and tokens, must not give the same key.
TEST(ChunkKeyTest, BordersCount) {
  const ChunkKey layout = CountingFingerprint();
  const std::vector<uint32_t> numbers = {1, 2, 3, 4};
  absl::flat_hash_set<ChunkKey> keys;
  for (size_t cut = 0; cut <= numbers.size(); ++cut) {
    const auto all = absl::MakeConstSpan(numbers);
    EXPECT_TRUE(keys.insert(MakeChunkKey(layout, "", all.first(cut), all.subspan(cut))).second);
    const auto* raw = reinterpret_cast<const char*>(numbers.data());
    const std::string_view salt(raw, cut * sizeof(uint32_t));
    if (cut == 0) continue;
    EXPECT_TRUE(keys.insert(MakeChunkKey(layout, salt, {}, all.subspan(cut))).second);
    EXPECT_TRUE(keys.insert(MakeChunkKey(layout, salt, all.subspan(cut), {})).second || cut == 4);
  }
}

TEST(ChunkKeyTest, PieceKeysDiffer) {
  const ChunkKey chunk = CountingFingerprint();
  absl::flat_hash_set<ChunkKey> keys = {chunk};
  for (uint32_t size : {1u, 128u, 256u}) {
    for (uint32_t index : {0u, 1u, 128u, 256u}) {
      EXPECT_TRUE(keys.insert(MakePieceKey(chunk, size, index)).second);
    }
  }
}

// A block's key covers all that stands before it: whatever differs there, the key differs.
TEST(BlockKeyTest, TheWholePrefixCounts) {
  absl::flat_hash_set<ChunkKey> keys;
  for (const char* salt : {"", "a", "b"}) {
    for (const bool other_model : {false, true}) {
      ChunkKey fingerprint = CountingFingerprint();
      if (other_model) fingerprint.bytes[31] ^= 1;
      const ChunkKey root = MakePrefixRoot(fingerprint, salt);
      EXPECT_TRUE(keys.insert(root).second);
      for (const uint32_t first : {1u, 2u}) {
        const ChunkKey block = MakeBlockKey(root, {first});
        EXPECT_TRUE(keys.insert(block).second);
        EXPECT_TRUE(keys.insert(MakeBlockKey(block, {1})).second);
        EXPECT_TRUE(keys.insert(MakeBlockKey(root, {first, 1})).second) << "cut elsewhere";
      }
    }
  }
}

TEST(BlockKeyTest, IsNeverAChunksOrAPiecesKey) {
  const ChunkKey layout = CountingFingerprint();
  absl::flat_hash_set<ChunkKey> others;
  absl::flat_hash_set<ChunkKey> blocks;
  std::vector<uint32_t> tokens;
  for (uint32_t count = 0; count < 12; ++count) {
    blocks.insert(MakeBlockKey(MakePrefixRoot(layout, ""), tokens));
    // With the fingerprint itself as the parent both begin with the same bytes.
    if (count > 0) blocks.insert(MakeBlockKey(layout, tokens));
    others.insert(MakeChunkKey(layout, "", {}, tokens));
    others.insert(MakeChunkKey(layout, "", tokens, {}));
    others.insert(MakePieceKey(layout, count, 0));
    others.insert(MakePieceKey(layout, 0, count));
    tokens.push_back(0);
  }
  EXPECT_EQ(blocks.size(), 23u);
  for (const ChunkKey& block : blocks) EXPECT_FALSE(others.contains(block));
}

TEST(TenantTest, HidesAndSeparatesSalts) {
  absl::flat_hash_set<Tenant> tenants;
  for (const char* salt : {"", "a", "b", "aa", "tenant", "Tenant"}) {
    const Tenant tenant = MakeTenant(salt);
    EXPECT_TRUE(tenants.insert(tenant).second) << salt;
    EXPECT_EQ(tenant, MakeTenant(salt));
    if (*salt != '\0') {
      EXPECT_EQ(tenant.AsBytes().find(salt), std::string_view::npos);
    }
  }
}

TEST(TenantTest, FromBytes) {
  const Tenant tenant = MakeTenant("somebody");
  EXPECT_EQ(*Tenant::FromBytes(tenant.AsBytes()), tenant);
  EXPECT_EQ(*Tenant::FromBytes(""), Tenant());
  for (const size_t size : {1, 15, 17, 32}) {
    EXPECT_EQ(Tenant::FromBytes(std::string(size, 'x')).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(ChunkKeyTest, FromBytes) {
  const ChunkKey key = MakePieceKey(ChunkKey(), 256, 1);
  ASSERT_TRUE(ChunkKey::FromBytes(key.AsBytes()).ok());
  EXPECT_EQ(*ChunkKey::FromBytes(key.AsBytes()), key);
  for (size_t size : {0, 31, 33}) {
    EXPECT_EQ(ChunkKey::FromBytes(std::string(size, 'x')).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace tessera
