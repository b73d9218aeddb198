// How fast the RocksDB tier writes, opens and reads, against the disk alone.
//
//   bazel run -c opt //tests/bench:disk_bench -- --folder=/some/empty/folder
//
// Writes --gigabytes of pieces, opens them again, reads every piece in random order with some
// threads, and reads the bytes of the same files with O_DIRECT alone, in random order too, as many
// at once. Then the same number of slices as 100 GB of pieces have, but small ones, for the time
// that opening takes. Prints a table, and last one line of JSON. Removes what it wrote.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/process.h"
#include "cache_server/chunk/buffer.h"
#include "cache_server/chunk/checksum.h"
#include "cache_server/tier/rocksdb_tier.h"
#include "glog/logging.h"

ABSL_FLAG(std::string, folder, "", "a new folder is made in it; default: $TMPDIR or /tmp");
ABSL_FLAG(double, gigabytes, 4, "bytes of pieces to write, in 1e9; at most 6");
ABSL_FLAG(uint32_t, layers, 30, "layers of a piece");
ABSL_FLAG(uint64_t, slice_bytes, 196608, "bytes of a layer slice");
ABSL_FLAG(uint32_t, small_slices, 540000, "slices of the second set, of 192 bytes each");

namespace tessera {
namespace {

namespace fs = std::filesystem;

struct Figure {
  std::string name;
  double value;
  std::string unit;
};
std::vector<Figure> figures;

void Report(const std::string& name, double value, const std::string& unit) {
  figures.push_back({name, value, unit});
  absl::PrintF("%-42s %10.3f %s\n", name, value, unit);
  fflush(stdout);
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](timeval time) { return time.tv_sec + 1e-6 * time.tv_usec; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

ChunkKey KeyOf(uint32_t number) { return MakePieceKey(ChunkKey(), 256, number); }

// Bytes of which no two slices have the same.
class RandomBytes {
 public:
  explicit RandomBytes(uint64_t bytes) : words_(2 * bytes / sizeof(uint64_t) + 2) {
    std::mt19937_64 random(7);
    for (uint64_t& word : words_) word = random();
  }
  void Fill(uint32_t number, absl::Span<std::byte> slice) const {
    const size_t start = (uint64_t{number} * 977) % (words_.size() / 2);
    std::memcpy(slice.data(), words_.data() + start, slice.size());
    std::memcpy(slice.data(), &number, std::min(slice.size(), sizeof(number)));
  }

 private:
  std::vector<uint64_t> words_;
};

RocksdbTierOptions OptionsFor(const std::string& folder) {
  RocksdbTierOptions options;
  options.folder = folder;
  options.capacity_bytes = uint64_t{20} << 30;
  options.free_floor_bytes = uint64_t{4} << 30;
  return options;
}

std::unique_ptr<Tier> Open(const std::string& folder) {
  auto tier = MakeRocksdbTier(OptionsFor(folder));
  CHECK(tier.ok()) << tier.status();
  return *std::move(tier);
}

void Put(Tier* tier, uint32_t number, PieceShape shape, const RandomBytes& random) {
  auto room = tier->Allocate(KeyOf(number), shape, Tenant());
  CHECK(room.ok()) << room.status();
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    random.Fill(number * shape.layers + layer, room->slice(layer));
    room->set_checksum(layer, SliceChecksum(room->slice(layer)));
  }
  const auto committed = tier->Commit(*std::move(room));
  CHECK(committed.ok()) << committed.status();
}

// Runs `work` on threads that take the numbers below `count` one by one, in a random order.
void ForAll(uint32_t count, int threads, const std::function<void(uint32_t)>& work) {
  std::vector<uint32_t> order(count);
  for (uint32_t i = 0; i < count; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(5));
  std::atomic<uint32_t> next{0};
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&] {
      for (uint32_t at = next++; at < count; at = next++) work(order[at]);
    });
  }
  for (std::thread& worker : workers) worker.join();
}

// Bytes a second and CPU of reading `bytes` by `work`.
void Measure(const std::string& name, double bytes, const std::function<void()>& work) {
  const double cpu = CpuSeconds();
  const absl::Time start = absl::Now();
  work();
  Report(name, bytes / 1e9 / absl::ToDoubleSeconds(absl::Now() - start), "GB/s");
  Report(name + " cpu", (CpuSeconds() - cpu) / (bytes / 1e9), "s/GB");
}

// The files that hold the slices, in stretches as large as a piece.
struct Stretch {
  int fd;
  uint64_t start;
};

std::vector<Stretch> StretchesOf(const std::string& folder, uint64_t bytes) {
  std::vector<Stretch> stretches;
  for (const auto& file : fs::directory_iterator(folder)) {
    if (file.path().extension() != ".blob") continue;
    const int fd = open(file.path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
    CHECK_GE(fd, 0) << file.path();
    for (uint64_t start = 0; start + bytes <= file.file_size(); start += bytes) {
      stretches.push_back({fd, start});
    }
  }
  return stretches;
}

// The disk alone: every stretch with reads of a slice each.
void ReadStretch(Stretch stretch, PieceShape shape) {
  thread_local const Buffer memory = Buffer::Allocate(shape.slice_bytes).value();
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    const auto at = static_cast<off_t>(stretch.start + layer * shape.slice_bytes);
    auto* const into = const_cast<std::byte*>(memory.view().data());
    CHECK_EQ(pread(stretch.fd, into, shape.slice_bytes, at),
             static_cast<ssize_t>(shape.slice_bytes));
  }
}

void BenchPieces(const std::string& folder) {
  const PieceShape shape = {absl::GetFlag(FLAGS_layers), absl::GetFlag(FLAGS_slice_bytes)};
  CHECK_EQ(shape.slice_bytes % Buffer::kAlignment, 0u) << "whole pages, for O_DIRECT";
  const double wanted = std::min(6.0, absl::GetFlag(FLAGS_gigabytes)) * 1e9;
  const auto pieces = static_cast<uint32_t>(wanted / static_cast<double>(shape.bytes()));
  const double bytes = static_cast<double>(pieces) * static_cast<double>(shape.bytes());
  const RandomBytes random(shape.slice_bytes);
  std::unique_ptr<Tier> tier = Open(folder);
  Measure("put and flush", bytes, [&] {
    for (uint32_t number = 0; number < pieces; ++number) Put(tier.get(), number, shape, random);
    CHECK(tier->Flush().ok());
  });
  tier.reset();
  const absl::Time start = absl::Now();
  tier = Open(folder);
  Report("open", absl::ToDoubleSeconds(absl::Now() - start), "s");
  const std::vector<Stretch> stretches = StretchesOf(folder, shape.bytes());
  const double raw_bytes =
      static_cast<double>(stretches.size()) * static_cast<double>(shape.bytes());
  for (const int threads : {1, 2, 4}) {
    // Raw, tier, raw: the disk of a shared machine changes its mind.
    const auto raw = [&] {
      ForAll(stretches.size(), threads, [&](uint32_t i) { ReadStretch(stretches[i], shape); });
    };
    const std::string with = absl::StrCat(", threads=", threads);
    Measure("O_DIRECT alone" + with, raw_bytes, raw);
    Measure("get" + with, bytes, [&] {
      ForAll(pieces, threads, [&](uint32_t number) {
        const auto handle = tier->Get(KeyOf(number));
        CHECK(handle.ok()) << handle.status();
      });
    });
    Measure("O_DIRECT alone, again" + with, raw_bytes, raw);
  }
}

void BenchOpen(const std::string& folder) {
  const PieceShape shape = {absl::GetFlag(FLAGS_layers), 192};
  const uint32_t pieces = absl::GetFlag(FLAGS_small_slices) / shape.layers;
  const RandomBytes random(shape.slice_bytes);
  std::unique_ptr<Tier> tier = Open(folder);
  for (uint32_t number = 0; number < pieces; ++number) Put(tier.get(), number, shape, random);
  tier.reset();
  const absl::Time start = absl::Now();
  tier = Open(folder);
  Report("open, many small slices", absl::ToDoubleSeconds(absl::Now() - start), "s");
  CHECK_EQ(tier->Stats().entries, pieces);
}

void PrintJson() {
  std::string json = "{";
  for (const Figure& figure : figures) {
    absl::StrAppend(&json, json.size() > 1 ? ", " : "", "\"", figure.name, " ", figure.unit,
                    "\": ", figure.value);
  }
  absl::PrintF("%s}\n", json);
}

void Run() {
  std::string parent = absl::GetFlag(FLAGS_folder);
  if (parent.empty()) parent = fs::temp_directory_path();
  std::string folder = parent + "/disk_bench.XXXXXX";
  CHECK(mkdtemp(folder.data()) != nullptr) << folder;
  BenchPieces(folder + "/pieces");
  fs::remove_all(folder + "/pieces");
  BenchOpen(folder + "/small");
  fs::remove_all(folder);
  PrintJson();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  tessera::Run();
  return 0;
}
