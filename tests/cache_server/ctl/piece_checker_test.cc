#include "cache_server/ctl/piece_checker.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "absl/types/span.h"
#include "cache_server/chunk/checksum.h"

namespace tessera::ctl {
namespace {

using cache::v1::FetchResponse;

FetchResponse Header(std::initializer_list<bool> found, uint64_t slice_bytes = 4) {
  FetchResponse message;
  for (const bool here : found) {
    auto* key = message.mutable_header()->add_keys();
    key->set_found(here);
    if (!here) continue;
    key->set_layers(2);
    key->set_slice_bytes(slice_bytes);
  }
  return message;
}

FetchResponse Part(uint32_t key, uint32_t layer, uint64_t offset, const std::string& payload,
                   const std::string& slice) {
  FetchResponse message;
  message.mutable_slice()->set_key_index(key);
  message.mutable_slice()->set_layer(layer);
  message.mutable_slice()->set_offset(offset);
  message.mutable_slice()->set_payload(payload);
  message.mutable_slice()->set_checksum(SliceChecksum(
      absl::MakeConstSpan(reinterpret_cast<const std::byte*>(slice.data()), slice.size())));
  return message;
}

FetchResponse Whole(uint32_t key, uint32_t layer, const std::string& slice) {
  return Part(key, layer, 0, slice, slice);
}

TEST(PieceCheckerTest, GoodAndMissingPieces) {
  PieceChecker checker(3);
  for (const FetchResponse& message :
       {Header({true, false, true}), Whole(0, 0, "aaaa"), Part(2, 0, 0, "b", "bbbb"),
        Part(2, 0, 1, "bbb", "bbbb"), Whole(0, 1, "cccc"), Whole(2, 1, "dddd")}) {
    ASSERT_TRUE(checker.Take(message).ok());
  }
  EXPECT_EQ(checker.verdict(0), Verdict::kGood);
  EXPECT_EQ(checker.Reason(0), "");
  EXPECT_EQ(checker.verdict(1), Verdict::kMissing);
  EXPECT_EQ(checker.verdict(2), Verdict::kGood);
  EXPECT_EQ(checker.checked_bytes(), 16u);
}

TEST(PieceCheckerTest, AFlippedByteIsDamageOfThatPieceAlone) {
  PieceChecker checker(2);
  for (const FetchResponse& message :
       {Header({true, true}), Whole(0, 0, "aaaa"), Whole(1, 0, "bbbb"),
        Part(0, 1, 0, "axaa", "aaaa"), Whole(1, 1, "bbbb")}) {
    ASSERT_TRUE(checker.Take(message).ok());
  }
  EXPECT_EQ(checker.verdict(0), Verdict::kDamaged);
  EXPECT_EQ(checker.Reason(0), "wrong checksum in layer 1");
  EXPECT_EQ(checker.verdict(1), Verdict::kGood);
}

TEST(PieceCheckerTest, PartsOutOfOrderAreDamage) {
  for (const FetchResponse& wrong :
       {Whole(0, 1, "aaaa"), Part(0, 0, 2, "aa", "aaaa"), Whole(0, 0, "aaaaa"), Whole(0, 0, "")}) {
    PieceChecker checker(1);
    ASSERT_TRUE(checker.Take(Header({true})).ok());
    ASSERT_TRUE(checker.Take(wrong).ok());
    EXPECT_EQ(checker.verdict(0), Verdict::kDamaged) << wrong.ShortDebugString();
    EXPECT_NE(checker.Reason(0).find("out of order"), std::string::npos);
  }
}

TEST(PieceCheckerTest, AStreamThatEndsEarlyLeavesPiecesUnreadable) {
  PieceChecker checker(2);
  for (const FetchResponse& message :
       {Header({true, true}), Whole(0, 0, "aaaa"), Part(1, 0, 0, "bb", "bbbb")}) {
    ASSERT_TRUE(checker.Take(message).ok());
  }
  EXPECT_EQ(checker.verdict(0), Verdict::kUnreadable);
  EXPECT_EQ(checker.Reason(0), "only 1 of 2 layers came");
  EXPECT_EQ(checker.verdict(1), Verdict::kUnreadable);
}

TEST(PieceCheckerTest, ALaterHeaderTakesBackAPiece) {
  PieceChecker checker(2);
  for (const FetchResponse& message :
       {Header({true, true}), Whole(1, 0, "bbbb"), Header({false, true}), Whole(1, 1, "bbbb")}) {
    ASSERT_TRUE(checker.Take(message).ok());
  }
  EXPECT_EQ(checker.verdict(0), Verdict::kUnreadable);
  EXPECT_NE(checker.Reason(0).find("could not load it"), std::string::npos);
  EXPECT_EQ(checker.verdict(1), Verdict::kGood);
}

TEST(PieceCheckerTest, WhatBreaksTheProtocolEndsTheCheck) {
  PieceChecker checker(2);
  EXPECT_FALSE(checker.Take(Whole(0, 0, "aaaa")).ok());  // before the header
  EXPECT_FALSE(checker.Take(Header({true})).ok());
  ASSERT_TRUE(checker.Take(Header({true, false})).ok());
  EXPECT_FALSE(checker.Take(Whole(1, 0, "aaaa")).ok());
  EXPECT_FALSE(checker.Take(Whole(7, 0, "aaaa")).ok());
}

TEST(PieceCheckerTest, SizesThatNoServerAcceptsCostNoMemory) {
  PieceChecker checker(1);
  ASSERT_TRUE(checker.Take(Header({true}, ~uint64_t{0})).ok());
  ASSERT_TRUE(checker.Take(Whole(0, 0, "aaaa")).ok());
  EXPECT_EQ(checker.verdict(0), Verdict::kDamaged);
}

}  // namespace
}  // namespace tessera::ctl
