// The CUDA device's memory, and steps that are replayed: against what was put there, exactly.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gpu_worker/device/cuda/kv_pair.h"
#include "tests/gpu_worker/device/cuda/ops_pair.h"

namespace tessera {
namespace {

using Bytes = std::vector<char>;

class MemoryTest : public OpsPairTest {
 protected:
  static Bytes Some(size_t count, char seed) {
    Bytes bytes(count);
    for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i * 31 + (i >> 8) + seed);
    return bytes;
  }
  Bytes Read(const void* from, size_t count) const {
    Bytes bytes(count, 'x');
    memory().Download(from, count, bytes.data());
    return bytes;
  }
  // Keeps the device busy for some milliseconds.
  void IssueWork() const {
    for (int i = 0; i < 20; ++i) {
      memory().Copy(busy_.get(), kBusy, static_cast<char*>(busy_.get()) + kBusy, kBusy, kBusy, 1);
    }
  }
  void SetUp() override {
    OpsPairTest::SetUp();
    if (!IsSkipped()) busy_ = AllocateShared(memory(), 2 * kBusy);
  }
  // A product that must come out right.
  void ExpectThatOpsWork() const {
    const Both x(memory(), 80, 512, Random(80 * 512, 1));
    const Shared w(memory(), Random(256 * 512, 2), DType::kBf16);
    const Both out = Both::Poisoned(memory(), 80, 256, DType::kF32);
    cpu().MatMul(x.cpu(), w.CpuWeight(0, 256, 512), {}, false, out.cpu());
    cuda().MatMul(x.cuda(), w.CudaWeight(0, 256, 512), {}, false, out.cuda());
    ExpectClose("MatMul", out.CudaValues(), out.CpuValues(), kSumsOfFloats);
  }

  static constexpr size_t kBusy = size_t{256} << 20;
  std::shared_ptr<void> busy_;
};

TEST_F(MemoryTest, UploadsAndDownloads) {
  for (const size_t count : {size_t{1}, size_t{4097}, size_t{70001}, size_t{5} << 20}) {
    const std::shared_ptr<void> there = AllocateShared(memory(), count);
    Bytes from = Some(count, 1);
    IssueWork();
    memory().Upload(from.data(), count, there.get());
    std::fill(from.begin(), from.end(), 'y');  // it may be changed
    EXPECT_TRUE(Read(there.get(), count) == Some(count, 1)) << count;
  }
  memory().Upload(nullptr, 0, nullptr);
}

TEST_F(MemoryTest, UploadsFromHostMemoryThatIsChangedAfterwards) {
  const size_t count = size_t{64} << 20;
  const std::shared_ptr<void> there = AllocateShared(memory(), count);
  void* const from = memory().AllocateHost(count);
  std::memset(from, 3, count);
  IssueWork();
  memory().Upload(from, count, there.get());
  std::memset(from, 4, count);
  const Bytes got = Read(there.get(), count);
  EXPECT_EQ(std::count(got.begin(), got.end(), 3), static_cast<int64_t>(count));
  memory().FreeHost(from);
}

TEST_F(MemoryTest, CopiesRowsAndZeros) {
  const Bytes from = Some(100 * 96, 2);
  const std::shared_ptr<void> a = AllocateShared(memory(), from.size());
  const std::shared_ptr<void> b = AllocateShared(memory(), from.size());
  memory().Upload(from.data(), from.size(), a.get());
  memory().Zero(b.get(), from.size());
  memory().Copy(static_cast<char*>(a.get()) + 10, 96, static_cast<char*>(b.get()) + 4, 64, 33, 100);
  memory().Copy(a.get(), 96, b.get(), 96, 33, 0);
  Bytes want(from.size(), 0);
  for (int64_t r = 0; r < 100; ++r) {
    std::copy_n(from.begin() + r * 96 + 10, 33, want.begin() + r * 64 + 4);
  }
  EXPECT_TRUE(Read(b.get(), want.size()) == want);
}

TEST_F(MemoryTest, AwaitHoldsWorkBackUntilACopyIsThere) {
  const size_t count = size_t{32} << 20;
  void* const host = memory().AllocateHost(count);
  const Bytes want = Some(count, 5);
  std::memcpy(host, want.data(), count);
  void* const there = memory().Reserve(count);
  const std::shared_ptr<void> copy = AllocateShared(memory(), count);
  IssueWork();
  const std::unique_ptr<CopyTicket> ticket = memory().BeginUpload(host, count, there);
  memory().Await(*ticket);
  memory().Copy(there, count, copy.get(), count, count, 1);
  EXPECT_TRUE(Read(copy.get(), count) == want);
  ticket->Wait();
  memory().BeginUpload(host, count, there)->Wait();
  memory().Release(there, count);
  memory().FreeHost(host);
}

// A cache server's memory, which may be mapped to be read only.
TEST_F(MemoryTest, UploadsFromRegisteredMemory) {
  const size_t count = size_t{8} << 20;
  void* const mapped =
      mmap(nullptr, count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  const Bytes want = Some(count, 4);
  std::memcpy(mapped, want.data(), count);
  ASSERT_EQ(mprotect(mapped, count, PROT_READ), 0);
  const std::shared_ptr<void> there = AllocateShared(memory(), count);
  memory().Synchronize();
  memory().RegisterHost(mapped, count);
  memory().BeginUpload(mapped, count, there.get())->Wait();
  memory().UnregisterHost(mapped);
  memory().UnregisterHost(mapped);  // no more than once
  EXPECT_TRUE(Read(there.get(), count) == want);
  munmap(mapped, count);
}

TEST_F(MemoryTest, DownloadsBehindAMarkFromAnotherThread) {
  const size_t count = size_t{32} << 20;
  const Bytes first = Some(count, 6), second = Some(count, 7);
  const std::shared_ptr<void> a = AllocateShared(memory(), count),
                              b = AllocateShared(memory(), count);
  memory().Upload(second.data(), count, a.get());
  memory().Upload(first.data(), count, b.get());
  IssueWork();
  memory().Copy(b.get(), count, a.get(), count, count, 1);
  const std::unique_ptr<CopyTicket> mark = memory().Mark();
  IssueWork();
  Bytes got(count, 'x');
  std::thread([&] {
    void* const host = memory().AllocateHost(count);
    memory().DownloadBehind(mark.get(), a.get(), count, host);
    std::memcpy(got.data(), host, count);
    memory().FreeHost(host);
  }).join();
  EXPECT_TRUE(got == first);
  memory().Pace();
  memory().Pace();
  memory().Synchronize();
  mark->Wait();
}

TEST_F(MemoryTest, FreedMemoryThatIsGivenOutAgainDisturbsNoWork) {
  const size_t count = size_t{16} << 20;
  const Bytes first = Some(count, 8), second = Some(count, 9);
  const std::shared_ptr<void> kept = AllocateShared(memory(), count);
  void* const once = memory().Allocate(count);
  memory().Upload(first.data(), count, once);
  IssueWork();
  memory().Copy(once, count, kept.get(), count, count, 1);
  memory().Free(once);
  void* const again = memory().Allocate(count);
  memory().Upload(second.data(), count, again);
  EXPECT_TRUE(Read(kept.get(), count) == first);
  EXPECT_TRUE(Read(again, count) == second);
  memory().Free(again);
}

TEST_F(MemoryTest, ReleasedMemoryThatIsReservedAgainDisturbsNoWork) {
  const size_t count = size_t{16} << 20;
  const Bytes first = Some(count, 8), second = Some(count, 9);
  void* const host = memory().AllocateHost(count);
  std::memcpy(host, second.data(), count);
  const std::shared_ptr<void> kept = AllocateShared(memory(), count);
  void* const once = memory().Reserve(count);
  memory().Upload(first.data(), count, once);
  IssueWork();
  memory().Copy(once, count, kept.get(), count, count, 1);
  memory().Release(once, count);
  void* const again = memory().Reserve(count);
  const std::unique_ptr<CopyTicket> ticket = memory().BeginUpload(host, count, again);
  EXPECT_TRUE(Read(kept.get(), count) == first);
  memory().Await(*ticket);
  EXPECT_TRUE(Read(again, count) == second);
  memory().Release(again, count);
  memory().FreeHost(host);
}

TEST_F(MemoryTest, MoreThanThereIsThrowsAndOpsGoOn) {
  EXPECT_THROW(memory().Allocate(memory().total_bytes() + (int64_t{1} << 30)), std::bad_alloc);
  EXPECT_THROW(memory().Reserve(memory().total_bytes() + (int64_t{1} << 30)), std::bad_alloc);
  ExpectThatOpsWork();
  std::vector<std::shared_ptr<void>> all;
  const auto piece = static_cast<size_t>(memory().free_bytes() / 5);
  EXPECT_THROW(
      {
        for (int i = 0; i < 10; ++i) all.push_back(AllocateShared(memory(), piece));
      },
      std::bad_alloc);
  EXPECT_GE(all.size(), 3u);
  ExpectThatOpsWork();
  all.clear();
  // What is kept for later is not lost to other sizes.
  all.push_back(AllocateShared(memory(), 2 * piece));
  memory().Release(memory().Reserve(piece), piece);
  all.push_back(AllocateShared(memory(), 2 * piece + piece / 5));
  ExpectThatOpsWork();
}

TEST_F(MemoryTest, WhatWasFreedCountsAsFree) {
  const int64_t before = memory().free_bytes(), bytes = int64_t{2} << 30, slack = 64 << 20;
  void* const memory_of = memory().Allocate(bytes);
  EXPECT_LE(memory().free_bytes(), before - bytes + slack);
  memory().Free(memory_of);
  EXPECT_GE(memory().free_bytes(), before - slack);
  void* const reserved = memory().Reserve(bytes + 1);
  EXPECT_LE(memory().free_bytes(), before - bytes + slack);
  memory().Release(reserved, bytes + 1);
  EXPECT_GE(memory().free_bytes(), before - slack);
}

// One layer of a decode step, as the decoder issues it: its memory comes and goes with each op.
class StepTest : public OpsPairTest {
 protected:
  static constexpr int64_t kRows = 5, kWidth = 4, kHidden = 256, kHeadDim = 64, kKvHeads = 2,
                           kQ = 512, kKv = kKvHeads * kHeadDim, kVocab = 1000;

  struct Contents {
    std::vector<int32_t> ids, positions, tables;
  };

  // Other ids, positions and tables for each seed.
  Contents ContentsOf(const TestKv& kv, uint32_t seed) const {
    std::mt19937 random(seed);
    Contents c;
    std::vector<int32_t> blocks = kv.blocks();
    std::shuffle(blocks.begin(), blocks.end(), random);
    c.tables.assign(blocks.begin(), blocks.begin() + kRows * kWidth);
    for (int64_t r = 0; r < kRows; ++r) {
      c.ids.push_back(static_cast<int32_t>(random() % kVocab));
      c.positions.push_back(static_cast<int32_t>(random() % (kWidth * LayerKv::kBlockSlots)));
    }
    return c;
  }

  void SetUp() override {
    OpsPairTest::SetUp();
    if (IsSkipped()) return;
    embedding_ = std::make_unique<Shared>(memory(), Random(kVocab * kHidden, 1), DType::kBf16);
    w_ = std::make_unique<Shared>(memory(), Random((kQ + 2 * kKv) * kHidden, 2), DType::kBf16);
    o_ = std::make_unique<Shared>(memory(), Random(kHidden * kQ, 3), DType::kBf16);
    gain_ = std::make_unique<Shared>(memory(), Random(kHidden, 4), DType::kF32);
    rope_ = RopeFor(kHeadDim, kWidth * LayerKv::kBlockSlots);
    logits_ = Activations(memory(), DType::kF32, kRows, kVocab);
  }
  void TearDown() override { rope_.on_device.reset(); }

  void Issue(const TestKv& kv) const {
    Ops& ops = cuda();
    const absl::Span<const float> gain = gain_->CudaFloats(0, kHidden);
    const TablesView tables{tables_, kWidth};
    const Activations h(memory(), DType::kF32, kRows, kHidden),
        x(memory(), DType::kBf16, kRows, kHidden);
    ops.Embed(embedding_->CudaWeight(0, kVocab, kHidden), ids_, h);
    ops.RmsNorm(h, gain, 1e-5f, x);
    std::vector<Activations> qkv = Activations::SideBySide(memory(), kRows, {kQ, kKv, kKv});
    ops.MatMulMany(x,
                   {w_->CudaWeight(0, kQ, kHidden), w_->CudaWeight(kQ, kKv, kHidden),
                    w_->CudaWeight(kQ + kKv, kKv, kHidden)},
                   {}, /*by_row=*/true, {qkv[0], qkv[1], qkv[2]});
    ops.RotateAndWriteRows(qkv[0], qkv[1], qkv[2], positions_, rope_, tables, kv.Pool());
    const Activations attention(memory(), DType::kBf16, kRows, kQ);
    ops.AttendRows(qkv[0], positions_, tables, kv.Pool(), attention);
    ops.MatMulByRow(attention, o_->CudaWeight(0, kHidden, kQ), {}, /*accumulate=*/true, h);
    ops.RmsNorm(h, gain, 1e-5f, x);
    ops.MatMulByRow(x, embedding_->CudaWeight(0, kVocab, kHidden), {}, false, logits_);
  }

  void Set(const Contents& c) {
    if (ids_.size() == 0) {
      ids_ = Indices(memory(), c.ids);
      positions_ = Indices(memory(), c.positions);
      tables_ = Indices(memory(), c.tables);
      return;
    }
    ids_.Set(memory(), c.ids);
    positions_.Set(memory(), c.positions);
    tables_.Set(memory(), c.tables);
  }

  std::unique_ptr<Shared> embedding_, w_, o_, gain_;
  RopeTable rope_;
  Indices ids_, positions_, tables_;
  Activations logits_;
};

TEST_F(StepTest, ReplayedStepsGiveWhatTheFirstRunWouldGive) {
  constexpr int64_t kSteps = 6;
  TestKv kv(memory(), ModelOf(1, kKvHeads, kHeadDim), kRows * kWidth * LayerKv::kBlockSlots, true,
            1);
  const KvNumbers before = RandomKv(kKvHeads, kv.slots(), kHeadDim, 5);
  const Activations results(memory(), DType::kF32, kSteps * kRows, kVocab);
  const size_t bytes = kRows * kVocab * sizeof(float);
  // Steps follow each other without a wait; each reads what those before it wrote.
  auto run = [&](auto step) {
    kv.Set(0, before);
    memory().Zero(results->memory, kSteps * bytes);
    for (uint32_t i = 0; i < kSteps; ++i) {
      Set(ContentsOf(kv, i));
      step();
      memory().Copy(logits_->memory, bytes, results->At(i * kRows, 0), bytes, bytes, 1);
    }
    return std::pair(ReadNumbers(memory(), DType::kF32, results->memory, kSteps * kRows * kVocab),
                     kv.Get());
  };
  const auto [want, want_kv] = run([&] { Issue(kv); });
  {
    std::unique_ptr<Recording> recording;
    // What other work allocates and overwrites between the steps must not be the recorded step's.
    const auto [got, got_kv] = run([&] {
      cuda().Repeat(&recording, [&] { Issue(kv); });
      std::vector<Activations> others;
      for (int i = 0; i < 40; ++i) {
        others.emplace_back(memory(), DType::kF32, 1, 128 << (i % 12));
        memory().Zero(others.back()->memory, others.back()->cols * sizeof(float));
      }
    });
    ASSERT_NE(recording, nullptr);
    ExpectSame("Repeat's results", got, want);
    ExpectSame("Repeat's K", got_kv.k, want_kv.k);
    ExpectSame("Repeat's V", got_kv.v, want_kv.v);
  }
  const auto [again, again_kv] = run([&] { Issue(kv); });
  ExpectSame("steps behind a recording", again, want);
}

// A step whose recording finds no memory leaves the device as it was.
TEST_F(StepTest, ARecordingThatThrowsIsForgotten) {
  std::unique_ptr<Recording> recording;
  EXPECT_THROW(cuda().Repeat(&recording,
                             [&] {
                               const Activations some(memory(), DType::kF32, 3, 1000);
                               memory().Allocate(memory().total_bytes() + (int64_t{1} << 30));
                             }),
               std::bad_alloc);
  EXPECT_EQ(recording, nullptr);
  for (int i = 0; i < 3; ++i) {
    TestKv kv(memory(), ModelOf(1, kKvHeads, kHeadDim), kRows * kWidth * LayerKv::kBlockSlots, true,
              1);
    kv.Set(0, RandomKv(kKvHeads, kv.slots(), kHeadDim, 5));
    Set(ContentsOf(kv, 1));
    Issue(kv);
  }
  memory().Synchronize();
}

}  // namespace
}  // namespace tessera
