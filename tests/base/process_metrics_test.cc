#include "base/process_metrics.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <map>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

std::map<std::string, double> Values() {
  std::map<std::string, double> values;
  for (const MetricSample& sample : ProcessSamples("test")) {
    EXPECT_EQ(sample.counter, sample.name == "process_cpu_seconds_total") << sample.name;
    EXPECT_TRUE(values.emplace(sample.name, sample.value).second) << sample.name;
  }
  return values;
}

TEST(ProcessMetricsTest, TheBuildIsNamed) {
  const std::vector<MetricSample> samples = ProcessSamples("test");
  EXPECT_EQ(samples[0].name, "tessera_build_info");
  EXPECT_EQ(samples[0].value, 1);
  EXPECT_EQ(samples[0].labels[0], std::make_pair(std::string("program"), std::string("test")));
  for (const auto& [label, value] : samples[0].labels) EXPECT_FALSE(value.empty()) << label;
}

TEST(ProcessMetricsTest, MemoryAndFilesAreThoseOfThisProcess) {
  constexpr size_t kBytes = size_t{64} << 20;
  auto before = Values();
  EXPECT_GE(before.at("process_virtual_memory_bytes"), before.at("process_resident_memory_bytes"));
  EXPECT_GE(before.at("process_max_fds"), before.at("process_open_fds"));
  void* const memory =
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 1, kBytes);
  const int file = open("/dev/null", O_RDONLY);
  auto after = Values();
  EXPECT_GE(after.at("process_resident_memory_bytes"),
            before.at("process_resident_memory_bytes") + 0.9 * kBytes);
  EXPECT_EQ(after.at("process_open_fds"), before.at("process_open_fds") + 1);
  close(file);
  munmap(memory, kBytes);
}

TEST(ProcessMetricsTest, TimeAndThreadsAreThoseOfThisProcess) {
  auto before = Values();
  // The machine's start is known to the second, and the process's to a tick.
  EXPECT_NEAR(before.at("process_start_time_seconds"), absl::ToUnixSeconds(absl::Now()), 60);
  std::thread busy([&before] {
    const double until = before.at("process_cpu_seconds_total") + 0.1;
    while (Values().at("process_cpu_seconds_total") < until) {
    }
    EXPECT_EQ(Values().at("process_threads"), before.at("process_threads") + 1);
  });
  busy.join();
}

TEST(ProcessMetricsTest, AnyNameMayStandInBrackets) {
  const auto stat = ParseProcessStat(
      "7 (a) b (c)) S 1 1 1 0 -1 4 5 0 0 0 250 150 0 0 20 0 12 0 9900 8192000 300 184467\n", 100,
      4096);
  ASSERT_TRUE(stat.has_value());
  EXPECT_EQ(stat->cpu_seconds, 4);
  EXPECT_EQ(stat->threads, 12);
  EXPECT_EQ(stat->started_seconds, 99);
  EXPECT_EQ(stat->virtual_bytes, 8192000);
  EXPECT_EQ(stat->resident_bytes, 300 * 4096);
}

TEST(ProcessMetricsTest, OtherLinesAreNotUnderstood) {
  EXPECT_FALSE(ParseProcessStat("", 100, 4096).has_value());
  EXPECT_FALSE(ParseProcessStat("7 name S 1 1", 100, 4096).has_value());
  EXPECT_FALSE(ParseProcessStat("7 (name) S 1 1 1 0", 100, 4096).has_value());
  EXPECT_FALSE(
      ParseProcessStat("7 (n) S 1 1 1 0 -1 4 5 0 0 0 x 150 0 0 20 0 12 0 99 81 3 1", 100, 4096)
          .has_value());
}

}  // namespace
}  // namespace tessera
