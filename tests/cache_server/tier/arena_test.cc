#include "cache_server/tier/arena.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr uint64_t kUnit = Arena::kUnit;

// Owners are told apart by address only.
char owners[64];
Arena::Owner Owner(int number) { return &owners[number]; }

bool Everybody(Arena::Owner) { return true; }

TEST(ArenaTest, CountsWholeUnits) {
  Arena arena(10 * kUnit);
  EXPECT_EQ(arena.Allocate(1, Owner(0)), 0u);
  EXPECT_EQ(arena.Allocate(kUnit + 1, Owner(1)), kUnit);
  EXPECT_EQ(arena.used(), 3 * kUnit);
  EXPECT_EQ(arena.largest_free(), 7 * kUnit);
  EXPECT_EQ(arena.Allocate(8 * kUnit, Owner(2)), std::nullopt);
  EXPECT_EQ(arena.Allocate(UINT64_MAX, Owner(2)), std::nullopt);
}

TEST(ArenaTest, TakesTheSmallestThatIsLargeEnough) {
  Arena arena(20 * kUnit);
  std::vector<uint64_t> starts;
  for (const uint64_t units : {5, 1, 2, 1, 3, 8}) {
    starts.push_back(*arena.Allocate(units * kUnit, Owner(0)));
  }
  for (const int freed : {0, 2, 4}) arena.Free(starts[freed]);
  EXPECT_EQ(arena.Allocate(2 * kUnit, Owner(1)), starts[2]);
  EXPECT_EQ(arena.Allocate(2 * kUnit, Owner(1)), starts[4]);
  EXPECT_EQ(arena.Allocate(1 * kUnit, Owner(1)), starts[4] + 2 * kUnit);
  EXPECT_EQ(arena.Allocate(1 * kUnit, Owner(1)), starts[0]);
}

TEST(ArenaTest, FreedStretchesJoin) {
  // In every order of freeing three neighbours.
  for (const auto& order : std::vector<std::vector<int>>{
           {0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}) {
    Arena arena(3 * kUnit);
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(arena.Allocate(kUnit, Owner(i)).has_value());
    for (const int i : order) arena.Free(i * kUnit);
    EXPECT_EQ(arena.largest_free(), 3 * kUnit);
    EXPECT_EQ(arena.Allocate(3 * kUnit, Owner(0)), 0u);
  }
}

// 12 units: A A . B C C C . D E E E  (a dot is free).
class ArenaWindowTest : public ::testing::Test {
 protected:
  enum { kA, kFree1, kB, kC, kFree2, kD, kE };
  ArenaWindowTest() {
    const uint64_t units[] = {2, 1, 1, 3, 1, 1, 3};
    for (int i = 0; i < 7; ++i) starts_[i] = *arena_.Allocate(units[i] * kUnit, Owner(i));
    arena_.Free(starts_[kFree1]);
    arena_.Free(starts_[kFree2]);
  }
  using Found = std::vector<Arena::Owner>;

  Arena arena_{12 * kUnit};
  uint64_t starts_[7];
};

TEST_F(ArenaWindowTest, ChoosesTheFewestTakenBytes) {
  EXPECT_EQ(arena_.FindWindowAnywhere(kUnit, Everybody), Found());
  EXPECT_EQ(arena_.FindWindowAnywhere(2 * kUnit, Everybody), Found({Owner(kB)}));
  EXPECT_EQ(arena_.FindWindowAnywhere(3 * kUnit, Everybody), Found({Owner(kA)}));
  EXPECT_EQ(arena_.FindWindowAnywhere(4 * kUnit, Everybody), Found({Owner(kA), Owner(kB)}));
  EXPECT_EQ(arena_.FindWindowAnywhere(6 * kUnit, Everybody), Found({Owner(kB), Owner(kC)}));
  EXPECT_EQ(arena_.FindWindowAnywhere(12 * kUnit, Everybody)->size(), 5u);
  EXPECT_EQ(arena_.FindWindowAnywhere(13 * kUnit, Everybody), std::nullopt);
}

TEST_F(ArenaWindowTest, WhoStaysIsNotInIt) {
  const auto not_c = [](Arena::Owner owner) { return owner != Owner(kC); };
  EXPECT_EQ(arena_.FindWindowAnywhere(4 * kUnit, not_c), Found({Owner(kA), Owner(kB)}));
  EXPECT_EQ(arena_.FindWindowAnywhere(5 * kUnit, not_c), Found({Owner(kD), Owner(kE)}));
  EXPECT_EQ(arena_.FindWindowAnywhere(6 * kUnit, not_c), std::nullopt);
}

TEST_F(ArenaWindowTest, StaysNear) {
  EXPECT_EQ(arena_.FindWindow(2 * kUnit, starts_[kE] + kUnit, Everybody), Found({Owner(kD)}));
  EXPECT_EQ(arena_.FindWindow(2 * kUnit, starts_[kA], Everybody), Found({Owner(kA)}));
  // At an end of the arena there is room on one side only.
  for (const uint64_t near : {uint64_t{0}, 12 * kUnit - 1}) {
    for (uint64_t units = 2; units <= 12; ++units) {
      EXPECT_TRUE(arena_.FindWindow(units * kUnit, near, Everybody).has_value()) << units;
    }
  }
}

// Against a plain array of units: stretches never overlap, the free bytes are exactly those that
// nobody has, and a window's bytes fit once its owners are gone.
TEST(ArenaTest, AgreesWithAnArrayOfUnits) {
  constexpr uint64_t kUnits = 64;
  Arena arena(kUnits * kUnit);
  std::vector<int> taken(kUnits, 0);
  std::map<uint64_t, uint64_t> mine;  // start -> units
  std::minstd_rand random(11);
  // The owner is the place of its start, so that a window names what to free.
  char places[kUnits];
  const auto free_at = [&](uint64_t start) {
    for (uint64_t i = 0; i < mine.at(start); ++i) taken[start + i] = 0;
    mine.erase(start);
    arena.Free(start * kUnit);
  };
  for (int step = 0; step < 20000; ++step) {
    uint64_t longest = 0;
    uint64_t run = 0;
    for (const int unit : taken) {
      run = unit != 0 ? 0 : run + 1;
      longest = std::max(longest, run);
    }
    ASSERT_EQ(arena.largest_free(), longest * kUnit);
    if (random() % 2 == 0 && !mine.empty()) {
      free_at(std::next(mine.begin(), random() % mine.size())->first);
      continue;
    }
    const uint64_t units = 1 + random() % 12;
    // Where it will lie, and so its owner, is known from a first try.
    const std::optional<uint64_t> start = arena.Allocate(units * kUnit, &places[0]);
    ASSERT_EQ(start.has_value(), units <= longest);
    if (!start.has_value()) continue;
    const uint64_t at = *start / kUnit;
    arena.Free(*start);
    ASSERT_EQ(arena.Allocate(units * kUnit, &places[at]), start);
    for (uint64_t i = 0; i < units; ++i) {
      ASSERT_EQ(taken[at + i], 0);
      taken[at + i] = 1;
    }
    mine[at] = units;
    if (step % 16 != 0) continue;
    const uint64_t wanted = 1 + random() % kUnits;
    const auto window = arena.FindWindow(wanted * kUnit, random() % (kUnits * kUnit), Everybody);
    ASSERT_TRUE(window.has_value());
    for (Arena::Owner owner : *window) free_at(static_cast<char*>(owner) - places);
    ASSERT_GE(arena.largest_free(), wanted * kUnit);
  }
}

}  // namespace
}  // namespace tessera
