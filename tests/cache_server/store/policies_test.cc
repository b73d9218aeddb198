// Admission and promotion policies, and what they remember keys with.
#include "absl/strings/match.h"
#include "cache_server/store/admission_policy.h"
#include "cache_server/store/promotion_policy.h"
#include "cache_server/store/seen_keys.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {
namespace {

TEST(AdmissionPolicyTest, Kinds) {
  const auto all = MakeAdmissionPolicy(*ParseAdmissionKind("all"));
  EXPECT_TRUE(all->Admit(TestKey(1)));
  const auto second = MakeAdmissionPolicy(*ParseAdmissionKind("second_sighting"));
  EXPECT_FALSE(second->Admit(TestKey(1)));
  EXPECT_FALSE(second->Admit(TestKey(2)));
  EXPECT_TRUE(second->Admit(TestKey(1)));
  EXPECT_TRUE(second->Admit(TestKey(1)));
  const auto pinned = MakeAdmissionPolicy(*ParseAdmissionKind("pinned"));
  EXPECT_FALSE(pinned->Admit(TestKey(1)));
  EXPECT_FALSE(pinned->Admit(TestKey(1)));
}

TEST(PromotionPolicyTest, Kinds) {
  EXPECT_TRUE(MakePromotionPolicy(*ParsePromotionKind("always"))->Promote(TestKey(1)));
  const auto second = MakePromotionPolicy(*ParsePromotionKind("second_read"));
  EXPECT_FALSE(second->Promote(TestKey(1)));
  EXPECT_TRUE(second->Promote(TestKey(1)));
  EXPECT_FALSE(MakePromotionPolicy(*ParsePromotionKind("never"))->Promote(TestKey(1)));
}

TEST(PoliciesTest, UnknownNamesAreRefusedWithTheKnownOnes) {
  const absl::Status admission = ParseAdmissionKind("some").status();
  EXPECT_EQ(admission.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(admission.message(), "second_sighting")) << admission;
  const absl::Status promotion = ParsePromotionKind("").status();
  EXPECT_EQ(promotion.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(promotion.message(), "second_read")) << promotion;
}

TEST(SeenKeysTest, ForgetsTheOldest) {
  SeenKeys seen(4);
  for (uint32_t number = 0; number < 100; ++number) EXPECT_FALSE(seen.Saw(TestKey(number)));
  EXPECT_TRUE(seen.Saw(TestKey(99)));
  EXPECT_TRUE(seen.Saw(TestKey(96)));
  EXPECT_FALSE(seen.Saw(TestKey(0)));
}

}  // namespace
}  // namespace tessera::testing
