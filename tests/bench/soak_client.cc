#include "tests/bench/soak_client.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "glog/logging.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::bench {
namespace {

using testing::TestBytes;
using testing::TestKey;

constexpr absl::Duration kTimeout = absl::Seconds(20);
// Together 1.4 GB: more than the soak's server keeps in memory and on disk.
constexpr uint32_t kPieces = 1000;
// Behind all others: each client has 65536 numbers that nobody else takes.
constexpr uint32_t kFirstFresh = uint32_t{1} << 30;

// What every reader of a piece must get.
class KnownPiece {
 public:
  explicit KnownPiece(uint32_t number)
      : shape_(SoakShape(number)), bytes_(TestBytes(number, shape_)) {}

  PieceShape shape() const { return shape_; }
  bool Matches(uint32_t layer, absl::Span<const std::byte> slice) const {
    return slice.size() == shape_.slice_bytes &&
           std::memcmp(slice.data(), bytes_.data() + layer * slice.size(), slice.size()) == 0;
  }

 private:
  const PieceShape shape_;
  const std::vector<std::byte> bytes_;
};

}  // namespace

PieceShape SoakShape(uint32_t number) {
  // 4 KiB to 8 MiB; pages, parts of pages, and slices larger than a message.
  static constexpr PieceShape kShapes[] = {{1, 4096},    {4, 4096},   {30, 3000},  {8, 65536},
                                           {1, 4096},    {30, 49152}, {4, 4096},   {8, 65536},
                                           {3, 1500007}, {30, 3000},  {30, 49152}, {32, 262144}};
  return kShapes[number % std::size(kShapes)];
}

void SoakTally::Add(const std::string& what, uint64_t count) {
  absl::MutexLock lock(&mutex_);
  counts_[what] += count;
}

uint64_t SoakTally::count(const std::string& what) const {
  absl::MutexLock lock(&mutex_);
  const auto found = counts_.find(what);
  return found == counts_.end() ? 0 : found->second;
}

std::map<std::string, uint64_t> SoakTally::counts() const {
  absl::MutexLock lock(&mutex_);
  return counts_;
}

SoakClient::SoakClient(SoakOptions options, SoakTally* tally)
    : options_(std::move(options)), tally_(tally), random_(options_.seed) {}

void SoakClient::Run(const std::atomic<bool>& stop) {
  while (!stop) {
    Connect();
    for (size_t left = 20 + random_() % 400; left > 0 && !stop; --left) DoSomething();
    CheckDeleted();
    Disconnect();
  }
}

void SoakClient::Connect() {
  auto client =
      MakeCacheClient({.address = options_.address, .shared_memory = options_.shared_memory});
  CHECK(client.ok()) << client.status();
  client_ = *std::move(client);
  stub_ = MakeSoakStub(options_.address);
  tally_->Add("clients made");
}

void SoakClient::Disconnect() {
  const ClientCounters counters = client_->counters();
  tally_->Add("client: failed fetches", counters.failed_fetches);
  tally_->Add("client: failed stores", counters.failed_stores);
  tally_->Add(kChecksumFailures, counters.checksum_failures);
  tally_->Add("client: skipped calls", counters.skipped_calls);
  tally_->Add("client: bytes from shared memory", counters.shm_bytes);
  tally_->Add("client: bytes fetched", counters.fetched_bytes);
  tally_->Add("client: bytes stored", counters.stored_bytes);
  tally_->Add("client: fallbacks to gRPC", counters.shm_fallbacks);
  tally_->Add("client: lost leases", counters.lost_leases);
  client_ = nullptr;
  stub_ = nullptr;
}

void SoakClient::DoSomething() {
  struct Kind {
    double share;
    void (SoakClient::*work)();
  };
  static constexpr Kind kKinds[] = {
      {.24, &SoakClient::Store},       {.23, &SoakClient::FetchIntoMemory},
      {.25, &SoakClient::ReadInPlace}, {.005, &SoakClient::Stall},
      {.05, &SoakClient::CancelFetch}, {.04, &SoakClient::Pin},
      {.01, &SoakClient::Unpin},       {.02, &SoakClient::Prefetch},
      {.04, &SoakClient::Delete},      {.02, &SoakClient::DeleteFresh},
      {.02, &SoakClient::List},        {.01, &SoakClient::Watch},
      {.002, &SoakClient::Flush},      {.03, &SoakClient::CutFetch},
      {.003, &SoakClient::StallFetch}, {.03, &SoakClient::CutStore}};
  double at = 0;
  for (const Kind& kind : kKinds) at += kind.share;
  at *= std::uniform_real_distribution<double>()(random_);
  for (const Kind& kind : kKinds) {
    at -= kind.share;
    if (at < 0) return (this->*kind.work)();
  }
}

void SoakClient::Store() {
  // One in eight brings what was never here, so that what the server remembers of keys moves on.
  const std::vector<uint32_t> numbers = Chance(0.125) ? std::vector<uint32_t>{Fresh()} : PickRun(4);
  std::vector<std::vector<std::byte>> bytes;
  std::vector<StoreSource> sources;
  uint64_t sent = 0;
  for (const uint32_t number : numbers) {
    const PieceShape shape = SoakShape(number);
    bytes.push_back(TestBytes(number, shape));
    sources.push_back({TestKey(number), shape.layers, shape.slice_bytes, bytes.back().data()});
    sent += shape.bytes();
  }
  tally_->Add("pieces newly stored", client_->Store(sources, kTimeout));
  tally_->Add("pieces sent", numbers.size());
  tally_->Add("bytes of pieces sent", sent);
  tally_->Add("stores");
}

SoakClient::Reading SoakClient::StartFetch(size_t most, bool in_place, absl::Duration timeout) {
  Reading reading = {.numbers = PickRun(most)};
  std::vector<FetchTarget> targets;
  for (const uint32_t number : reading.numbers) {
    const PieceShape shape = SoakShape(number);
    std::byte* memory = nullptr;
    if (!in_place) memory = reading.memory.emplace_back(shape.bytes()).data();
    targets.push_back({TestKey(number), shape.layers, shape.slice_bytes, memory});
  }
  reading.stream = client_->Fetch(std::move(targets), {.timeout = timeout});
  return reading;
}

void SoakClient::FetchIntoMemory() {
  const Reading reading = StartFetch(4, /*in_place=*/false, kTimeout);
  for (const std::string& tier : reading.stream->WaitForHeader()) {
    tally_->Add(tier.empty() ? "misses" : "hits in " + tier);
  }
  for (size_t i = 0; i < reading.numbers.size(); ++i) {
    const KnownPiece known(reading.numbers[i]);
    for (uint32_t layer = 0; layer < known.shape().layers; ++layer) {
      if (!reading.stream->WaitForSlice(i, layer)) break;
      if (!known.Matches(layer, reading.stream->Slice(i, layer))) {
        ReportWrong(reading.numbers[i], layer, "in the caller's memory");
      }
      tally_->Add("bytes compared in memory", known.shape().slice_bytes);
    }
  }
  tally_->Add("fetches into memory");
}

void SoakClient::ReadInPlace() {
  const Reading reading = StartFetch(4, /*in_place=*/true, kTimeout);
  for (const std::string& tier : reading.stream->WaitForHeader()) {
    tally_->Add(tier.empty() ? "misses" : "hits in " + tier);
  }
  for (size_t i = 0; i < reading.numbers.size(); ++i) {
    if (!CheckInPlace(reading, i)) break;
  }
  tally_->Add("reads in place");
}

bool SoakClient::CheckInPlace(const Reading& reading, size_t target) {
  const KnownPiece known(reading.numbers[target]);
  for (uint32_t layer = 0; layer < known.shape().layers; ++layer) {
    if (!reading.stream->WaitForSlice(target, layer)) return true;
    const bool right = known.Matches(layer, reading.stream->Slice(target, layer));
    if (!reading.stream->LeaseHeld()) {
      tally_->Add("leases lost while reading");
      return false;
    }
    if (!right) ReportWrong(reading.numbers[target], layer, "in place, with its lease held");
    tally_->Add("bytes compared in place", known.shape().slice_bytes);
  }
  return true;
}

void SoakClient::Stall() {
  // The lease is renewed up to the stream's timeout, so it ends a lease later, while we still look.
  const absl::Duration timeout = absl::Seconds(1);
  const Reading reading = StartFetch(2, /*in_place=*/true, timeout);
  const bool arrived = reading.stream->WaitForSlice(0, 0);
  tally_->Add("stalls of readers in place");
  if (!arrived) return;
  absl::SleepFor(timeout + options_.lease + absl::Milliseconds(random_() % 1000));
  const bool right = KnownPiece(reading.numbers[0]).Matches(0, reading.stream->Slice(0, 0));
  if (!reading.stream->LeaseHeld()) {
    tally_->Add("leases lost by stalling");
  } else if (!right) {
    ReportWrong(reading.numbers[0], 0, "in place, after a stall, with its lease held");
  }
}

void SoakClient::CancelFetch() {
  const Reading reading = StartFetch(4, /*in_place=*/Chance(0.5), kTimeout);
  if (Chance(0.5))
    reading.stream->WaitForSlice(0, random_() % SoakShape(reading.numbers[0]).layers);
  if (Chance(0.5)) reading.stream->Cancel();
  tally_->Add("fetches cancelled");
}

void SoakClient::ReportWrong(uint32_t number, uint32_t layer, const std::string& how) {
  tally_->Add(kWrongBytes);
  LOG(ERROR) << kSoakViolation << " what=wrong_bytes number=" << number << " layer=" << layer
             << " where=\"" << how << "\" shared_memory=" << options_.shared_memory
             << " seed=" << options_.seed;
}

std::vector<uint32_t> SoakClient::PickRun(size_t most) {
  const double place = std::uniform_real_distribution<double>()(random_);
  const auto first = static_cast<uint32_t>(kPieces * std::pow(place, 3));
  std::vector<uint32_t> numbers;
  for (size_t left = 1 + random_() % most; left > 0; --left) {
    numbers.push_back(first + numbers.size());
  }
  return numbers;
}

uint32_t SoakClient::Fresh() { return kFirstFresh + (options_.seed << 16) + fresh_++ % 65536; }

bool SoakClient::Chance(double probability) {
  return std::uniform_real_distribution<double>()(random_) < probability;
}

}  // namespace tessera::bench
