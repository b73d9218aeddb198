#include "gpu_worker/blend/resident_chunks.h"

#include <atomic>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

// What a reader makes of what it is told.
class Reader {
 public:
  explicit Reader(ResidentChunks* residents) : watch_(residents->StartWatch([this] { ++calls; })) {}

  // Takes all that there is now; returns how many messages it was.
  int TakeAll(size_t most = 1000) {
    int messages = 0;
    while (const std::optional<ResidentChanges> changes = watch_->Take(most)) {
      ++messages;
      EXPECT_LE(changes->added.size() + changes->removed.size(), most);
      if (changes->restart) {
        ++restarts;
        known.clear();
      }
      known.insert(changes->added.begin(), changes->added.end());
      for (const uint64_t gone : changes->removed) known.erase(gone);
    }
    return messages;
  }
  void End() { watch_.reset(); }
  bool watches() const { return watch_ != nullptr; }

  std::set<uint64_t> known;
  int restarts = 0;
  std::atomic<int> calls = 0;

 private:
  std::unique_ptr<ResidentChunks::Watch> watch_;
};

using Hashes = std::set<uint64_t>;

TEST(ResidentChunksTest, FirstAllThenChanges) {
  ResidentChunks residents;
  residents.Add(1);
  residents.Add(2);
  Reader reader(&residents);
  EXPECT_EQ(reader.TakeAll(), 1);
  EXPECT_EQ(reader.known, (Hashes{1, 2}));
  EXPECT_EQ(reader.restarts, 1);
  EXPECT_EQ(reader.TakeAll(), 0) << "nothing new";
  residents.Add(3);
  residents.Remove(1);
  EXPECT_EQ(reader.calls, 2);
  EXPECT_EQ(reader.TakeAll(), 1);
  EXPECT_EQ(reader.known, (Hashes{2, 3}));
  EXPECT_EQ(reader.restarts, 1);
}

TEST(ResidentChunksTest, NothingIsSaidToo) {
  ResidentChunks residents;
  Reader reader(&residents);
  EXPECT_EQ(reader.TakeAll(), 1);
  EXPECT_EQ(reader.restarts, 1);
}

TEST(ResidentChunksTest, TwoChunksOfOneHash) {
  ResidentChunks residents;
  Reader reader(&residents);
  residents.Add(1);
  residents.Add(1);
  residents.Remove(1);
  reader.TakeAll();
  EXPECT_EQ(reader.known, (Hashes{1}));
  residents.Remove(1);
  residents.Remove(1);  // one that is not there
  reader.TakeAll();
  EXPECT_EQ(reader.known, Hashes());
}

TEST(ResidentChunksTest, MessagesAreBounded) {
  ResidentChunks residents;
  for (uint64_t hash = 0; hash < 95; ++hash) residents.Add(hash);
  Reader reader(&residents);
  EXPECT_EQ(reader.TakeAll(/*most=*/10), 10);
  EXPECT_EQ(reader.known.size(), 95u);
  EXPECT_EQ(reader.restarts, 1);
}

TEST(ResidentChunksTest, WhoFallsBehindIsToldAnew) {
  ResidentChunks residents;
  Reader slow(&residents), quick(&residents);
  slow.TakeAll();
  // Each comes and goes: all that could pile up for a reader is what changed.
  for (uint64_t hash = 0; hash < 3 * ResidentChunks::kMostPending; ++hash) {
    residents.Add(hash);
    if (hash > 0) residents.Remove(hash - 1);
    quick.TakeAll();
  }
  EXPECT_EQ(quick.restarts, 1);
  EXPECT_LE(slow.TakeAll(10), static_cast<int>(ResidentChunks::kMostPending / 10 + 2));
  EXPECT_GT(slow.restarts, 1);
  EXPECT_EQ(slow.known, quick.known);
  EXPECT_EQ(slow.known, (Hashes{3 * ResidentChunks::kMostPending - 1}));
}

TEST(ResidentChunksTest, WatchesAreBounded) {
  ResidentChunks residents;
  std::vector<std::unique_ptr<Reader>> readers;
  for (size_t i = 0; i < ResidentChunks::kMostWatches; ++i) {
    ASSERT_TRUE(readers.emplace_back(std::make_unique<Reader>(&residents))->watches());
  }
  EXPECT_FALSE(Reader(&residents).watches());
  readers.pop_back();
  EXPECT_TRUE(Reader(&residents).watches());
}

TEST(ResidentChunksTest, ReadersComeAndGoWhileChunksDo) {
  ResidentChunks residents;
  std::atomic<bool> stop = false;
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!stop) {
        Reader reader(&residents);
        reader.TakeAll(7);
        reader.TakeAll(7);
      }
    });
  }
  std::minstd_rand random(1);
  Reader whole(&residents);
  Hashes wanted;
  for (int step = 0; step < 20'000; ++step) {
    const uint64_t hash = random() % 100;
    if (wanted.insert(hash).second) {
      residents.Add(hash);
    } else {
      wanted.erase(hash);
      residents.Remove(hash);
    }
    if (step % 100 == 0) whole.TakeAll();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  whole.TakeAll();
  EXPECT_EQ(whole.known, wanted);
}

}  // namespace
}  // namespace tessera
