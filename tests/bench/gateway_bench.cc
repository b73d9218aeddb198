// What the gateway costs: 1,000 idle streams and 200 active ones through it, its worker a stub in
// this process. Beside it the same load on the stub itself by gRPC, in turns, so that what else the
// machine does hits both alike. Prints a table, and last one line of JSON.
//
// "Added" is the time from the client's send to the stub's receipt and from the stub's first event
// to the client's first token: all that lies between, with the network and the client's own wait
// for a core. The stub answers at once, so it is the whole time to the first token.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/process.h"
#include "gateway/text/tokenizer.h"
#include "glog/logging.h"
#include "tests/bench/child_process.h"
#include "tests/bench/direct_load.h"
#include "tests/bench/stream_load.h"
#include "tests/bench/stub_clock.h"
#include "tests/gateway/stub_worker.h"
#include "tests/gateway/test_model.h"

ABSL_FLAG(std::string, gateway,
          tessera::bench::FirstFile({"gateway/tessera_gateway",
                                     "bazel-bin/gateway/tessera_gateway"}),
          "The gateway's program.");
ABSL_FLAG(std::string, model, "",
          "Folder of the model whose tokenizer is used; empty: the first one in $TESSERA_MODELS, "
          "or else one that the bench writes, where every byte is a token.");
ABSL_FLAG(uint32_t, idle, 1000, "Streams that have begun, and then get nothing but comments.");
ABSL_FLAG(uint32_t, active, 200, "Streams that are asked for again whenever they end.");
ABSL_FLAG(uint32_t, tokens, 40, "Tokens of an answer.");
ABSL_FLAG(double, tokens_per_second, 20, "Of one active stream.");
ABSL_FLAG(uint32_t, prompt_bytes, 1200, "Length of the prompt.");
ABSL_FLAG(int, rounds, 5, "Rounds.");
ABSL_FLAG(double, seconds, 10, "Time for one kind of load in one round.");

namespace tessera::bench {
namespace {

constexpr double kMostAddedSeconds = 0.002;
constexpr uint64_t kMostResidentBytes = 200'000'000;
// Idle streams that are opened before memory is looked at, so that what the first ones bring
// (stacks, arenas, the channel) is not counted as theirs.
constexpr uint32_t kFirstIdle = 16;

double Quantile(std::vector<double> values, double share) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

std::vector<double> Each(const std::vector<Ttft>& samples, double (*part)(const Ttft&)) {
  std::vector<double> values;
  for (const Ttft& sample : samples) values.push_back(part(sample));
  return values;
}

double Added(const Ttft& sample) { return sample.added(); }
double There(const Ttft& sample) { return sample.there; }
double Back(const Ttft& sample) { return sample.back; }

// A line of /proc/PID/status in kB, such as VmRSS.
uint64_t StatusBytes(pid_t pid, const std::string& name) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    const std::vector<std::string> fields =
        absl::StrSplit(line, absl::ByAnyChar(":\t "), absl::SkipEmpty());
    uint64_t kilobytes = 0;
    if (fields.size() >= 2 && fields[0] == name && absl::SimpleAtoi(fields[1], &kilobytes)) {
      return kilobytes * 1024;
    }
  }
  CHECK(false) << "process " << pid << " is gone";
  return 0;
}

// What all processes have used, and what the host took from this machine.
double MachineCpuSeconds() {
  std::ifstream stat("/proc/stat");
  std::string cpu;
  stat >> cpu;
  double total = 0;
  for (int field = 0; field < 8; ++field) {
    double ticks = 0;
    stat >> ticks;
    const bool waits = field == 3 || field == 4;  // idle, and idle for a disk
    if (!waits) total += ticks;
  }
  return total / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// How long threads of a process that could have run have waited for a core; of those alive.
double WaitedSeconds(pid_t pid) {
  double nanoseconds = 0;
  std::error_code ignored;
  const std::string tasks = absl::StrCat("/proc/", pid, "/task");
  for (std::filesystem::directory_iterator at(tasks, ignored), end; at != end;
       at.increment(ignored)) {
    std::ifstream schedule(at->path() / "schedstat");
    double ran = 0;
    double waited = 0;
    schedule >> ran >> waited;
    nanoseconds += waited;
  }
  return nanoseconds / 1e9;
}

// Both ends of every stream are here; the usual limit of 1024 is meant for select().
void RaiseDescriptorLimit() {
  rlimit limit;
  PCHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  limit.rlim_cur = limit.rlim_max;
  PCHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

std::string Prompt() {
  constexpr absl::string_view kText =
      "The harbour master wrote down every ship that came in, its flag, its cargo and the weather "
      "of that day, and never once looked up from the page. ";
  std::string prompt;
  while (prompt.size() < absl::GetFlag(FLAGS_prompt_bytes)) absl::StrAppend(&prompt, kText);
  prompt.resize(absl::GetFlag(FLAGS_prompt_bytes));
  return prompt;
}

// One kind of load in one round.
struct Phase {
  std::vector<Ttft> samples;
  // Cores that were busy, in the mean: with this process, and with all but it and the gateway.
  double cores_of_bench = 0;
  double cores_of_others = 0;
  // Threads of the gateway that waited for a core, in the mean.
  double waiting = 0;
};

Phase Together(std::span<const Phase> phases) {
  Phase all;
  const auto count = static_cast<double>(phases.size());
  for (const Phase& phase : phases) {
    all.samples.insert(all.samples.end(), phase.samples.begin(), phase.samples.end());
    all.cores_of_bench += phase.cores_of_bench / count;
    all.cores_of_others += phase.cores_of_others / count;
    all.waiting += phase.waiting / count;
  }
  return all;
}

class Bench {
 public:
  Bench();
  // 0 when all that is promised holds.
  int Run();

 private:
  std::string ModelFolder();
  void StartGateway(const std::string& model);
  void OpenIdle();
  void BeActive();
  template <typename Load>
  Phase Measure(const Load& load);
  void Report(const std::string& name, const Phase& phase);
  double ReportAll(const std::string& name, std::vector<Phase> phases);
  void Promise(const std::string& what, bool holds);
  int Conclude(double added_p99);

  const absl::Duration duration_ = absl::Seconds(absl::GetFlag(FLAGS_seconds));
  const ScratchFolder folder_{"/tmp"};
  StubClock clock_{absl::GetFlag(FLAGS_active)};
  std::string body_;
  std::unique_ptr<StubWorker> worker_;
  std::unique_ptr<ChildProcess> gateway_;
  int port_ = 0;
  std::unique_ptr<DirectLoad> direct_;
  std::unique_ptr<IdleStreams> idle_;
  std::unique_ptr<StreamLoad> streams_;
  double gateway_cpu_seconds_ = 0;
  double bytes_per_idle_ = 0;
  size_t comments_ = 0;
  std::vector<std::string> json_;
  bool all_hold_ = true;
};

Bench::Bench() {
  const std::string model = ModelFolder();
  const auto tokenizer = LoadTokenizer(model);
  CHECK(tokenizer.ok()) << tokenizer.status();
  const std::string prompt = Prompt();
  const auto ids = (*tokenizer)->Encode(prompt, SpecialTokens::kPlainText);
  CHECK(ids.ok()) << ids.status();
  const uint32_t tokens = absl::GetFlag(FLAGS_tokens);
  CHECK_GE(ids->size(), tokens) << "an answer is the prompt's end: make --prompt_bytes larger";
  std::printf("tokenizer: %s; prompt: %zu bytes, %zu tokens\n", model.c_str(), prompt.size(),
              ids->size());
  body_ =
      absl::StrFormat("{\"prompt\": \"%s\", \"max_tokens\": %u, \"stream\": true}", prompt, tokens);
  const auto vocabulary = static_cast<uint32_t>((*tokenizer)->vocab_size());
  // No token of an answer ends it before its length does.
  worker_ = StubWorker::Start("stub", 8192, vocabulary, vocabulary - 1);
  StartGateway(model);
  worker::v1::GenerateRequest request;
  request.mutable_sampling()->set_temperature(1);
  request.set_max_tokens(tokens);
  request.add_segments()->mutable_token_ids()->Add(ids->begin(), ids->end());
  direct_ = std::make_unique<DirectLoad>(worker_->address(), request, &clock_);
}

std::string Bench::ModelFolder() {
  if (!absl::GetFlag(FLAGS_model).empty()) return absl::GetFlag(FLAGS_model);
  const char* const models = std::getenv("TESSERA_MODELS");
  const std::vector<std::string> folders =
      absl::StrSplit(models == nullptr ? "" : models, ':', absl::SkipEmpty());
  if (!folders.empty()) return folders[0];
  WriteTestModel(folder_.path());
  return folder_.path();
}

void Bench::StartGateway(const std::string& model) {
  gateway_ = std::make_unique<ChildProcess>(
      std::vector<std::string>{
          // As a service has it: a share of the cores of its own, where the kernel gives shares to
          // sessions.
          "setsid", absl::GetFlag(FLAGS_gateway), "--listen=127.0.0.1:0",
          "--cache=", "--workers=" + worker_->address(), "--model_dir=" + model,
          // The default is less than the streams here.
          absl::StrCat("--max_in_flight=",
                       2 * (absl::GetFlag(FLAGS_idle) + absl::GetFlag(FLAGS_active)))},
      folder_.path() + "/gateway.log");
  const std::string ready = gateway_->WaitForLine("event=ready", absl::Seconds(60));
  CHECK(!ready.empty()) << absl::GetFlag(FLAGS_gateway) << " did not start";
  constexpr absl::string_view kListen = "listen=127.0.0.1:";
  port_ = std::atoi(ready.c_str() + ready.find(kListen.data()) + kListen.size());
  CHECK_GT(port_, 0) << ready;
}

void Bench::OpenIdle() {
  StubBehaviour behaviour;
  behaviour.hold_after = 2;  // Started, and one token
  worker_->Set(behaviour);
  const uint32_t count = std::max(kFirstIdle, absl::GetFlag(FLAGS_idle));
  idle_ = std::make_unique<IdleStreams>(port_, body_);
  idle_->Open(kFirstIdle);
  const uint64_t before = StatusBytes(gateway_->pid(), "VmRSS");
  idle_->Open(count - kFirstIdle);
  const uint64_t after = StatusBytes(gateway_->pid(), "VmRSS");
  direct_->OpenIdle(count);
  bytes_per_idle_ = static_cast<double>(after) - static_cast<double>(before);
  bytes_per_idle_ /= std::max(1u, count - kFirstIdle);
  std::printf("idle streams: %u; the gateway had %.1f MB before, %.1f MB after: %.1f kB each\n",
              count, before / 1e6, after / 1e6, bytes_per_idle_ / 1e3);
}

void Bench::BeActive() {
  StubBehaviour behaviour;
  behaviour.token_time = absl::Seconds(1 / absl::GetFlag(FLAGS_tokens_per_second));
  behaviour.on_received = [this](const std::string& id) { clock_.Receive(id); };
  behaviour.on_started = [this](const std::string& id) { clock_.Start(id); };
  worker_->Set(behaviour);
  streams_ = std::make_unique<StreamLoad>(port_, absl::GetFlag(FLAGS_active), body_,
                                          absl::GetFlag(FLAGS_tokens), &clock_);
}

template <typename Load>
Phase Bench::Measure(const Load& load) {
  const auto others = [this] {
    return MachineCpuSeconds() - CpuSeconds(getpid()) - CpuSeconds(gateway_->pid());
  };
  Phase phase;
  const double own = CpuSeconds(getpid());
  const double busy = others();
  const double waited = WaitedSeconds(gateway_->pid());
  const Clock::time_point begin = Clock::now();
  phase.samples = load();
  const std::chrono::duration<double> time = Clock::now() - begin;
  phase.cores_of_bench = (CpuSeconds(getpid()) - own) / time.count();
  phase.cores_of_others = (others() - busy) / time.count();
  phase.waiting = (WaitedSeconds(gateway_->pid()) - waited) / time.count();
  return phase;
}

void Bench::Report(const std::string& name, const Phase& phase) {
  const std::vector<double> added = Each(phase.samples, &Added);
  const std::vector<double> there = Each(phase.samples, &There);
  const std::vector<double> back = Each(phase.samples, &Back);
  std::printf("%-14s %7zu", name.c_str(), added.size());
  for (const std::vector<double>* const part : {&added, &there, &back}) {
    std::printf(" %8.3f %8.3f", Quantile(*part, 0.5) * 1e3, Quantile(*part, 0.99) * 1e3);
  }
  std::printf(" %7.2f %7.2f %7.2f\n", phase.cores_of_bench, phase.cores_of_others, phase.waiting);
}

// Of all rounds together, and of the third in which others used the machine least. Returns the
// former's p99.
double Bench::ReportAll(const std::string& name, std::vector<Phase> phases) {
  std::sort(phases.begin(), phases.end(), [](const Phase& left, const Phase& right) {
    return left.cores_of_others < right.cores_of_others;
  });
  const std::span<const Phase> rounds = phases;
  const Phase all = Together(rounds);
  const Phase quiet = Together(rounds.first((rounds.size() + 2) / 3));
  Report(name + " quiet", quiet);
  Report(name + " all", all);
  const std::vector<double> added = Each(all.samples, &Added);
  const std::vector<double> added_quiet = Each(quiet.samples, &Added);
  const double p99 = Quantile(added, 0.99);
  json_.push_back(absl::StrFormat(
      "\"%s\": {\"requests\": %d, \"added_p50_ms\": %.3f, \"added_p99_ms\": %.3f, "
      "\"there_p99_ms\": %.3f, \"back_p99_ms\": %.3f, \"cores_of_others\": %.2f, "
      "\"quiet_added_p50_ms\": %.3f, \"quiet_added_p99_ms\": %.3f, "
      "\"quiet_cores_of_others\": %.2f}",
      name, added.size(), Quantile(added, 0.5) * 1e3, p99 * 1e3,
      Quantile(Each(all.samples, &There), 0.99) * 1e3,
      Quantile(Each(all.samples, &Back), 0.99) * 1e3, all.cores_of_others,
      Quantile(added_quiet, 0.5) * 1e3, Quantile(added_quiet, 0.99) * 1e3, quiet.cores_of_others));
  return p99;
}

void Bench::Promise(const std::string& what, bool holds) {
  std::printf("%s: %s\n", what.c_str(), holds ? "yes" : "NO");
  json_.push_back(absl::StrFormat("\"%s\": %s", what, holds ? "true" : "false"));
  all_hold_ = all_hold_ && holds;
}

int Bench::Conclude(double added_p99) {
  const uint64_t resident = StatusBytes(gateway_->pid(), "VmRSS");
  const uint64_t peak = StatusBytes(gateway_->pid(), "VmHWM");
  const double cpu = gateway_cpu_seconds_ / (static_cast<double>(streams_->tokens()) / 1e3);
  std::printf(
      "gateway: %.1f MB resident, %.1f MB at most; %.3f CPU seconds for 1,000 tokens; "
      "%zu comments to idle streams\n",
      resident / 1e6, peak / 1e6, cpu, comments_);
  json_.push_back(
      absl::StrFormat("\"idle\": %u, \"active\": %u, \"tokens\": %d, "
                      "\"rss_mb\": %.1f, \"rss_peak_mb\": %.1f, "
                      "\"idle_stream_kb\": %.1f, \"cpu_s_per_1000_tokens\": %.4f",
                      absl::GetFlag(FLAGS_idle), absl::GetFlag(FLAGS_active), streams_->tokens(),
                      resident / 1e6, peak / 1e6, bytes_per_idle_ / 1e3, cpu));
  Promise("below 2 ms are added to the time to the first token (p99)",
          added_p99 < kMostAddedSeconds);
  Promise("below 200 MB are resident", peak < kMostResidentBytes);
  streams_.reset();
  idle_.reset();
  direct_.reset();
  Promise("the gateway stops when it is told to", gateway_->Stop(SIGTERM) == 0);
  std::printf("{%s}\n", absl::StrJoin(json_, ", ").c_str());
  return all_hold_ ? 0 : 1;
}

int Bench::Run() {
  OpenIdle();
  BeActive();
  // All of the answer's time, so that arrivals stay as far apart as they begin.
  const absl::Duration ramp =
      absl::Seconds(absl::GetFlag(FLAGS_tokens) / absl::GetFlag(FLAGS_tokens_per_second));
  std::printf("%-14s %7s %8s %8s %8s %8s %8s %8s %7s %7s %7s\n", "ms", "count", "added50",
              "added99", "there50", "there99", "back50", "back99", "bench", "others", "waiting");
  std::vector<Phase> gateway;
  std::vector<Phase> direct;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
    const double cpu = CpuSeconds(gateway_->pid());
    gateway.push_back(Measure([&] { return streams_->Run(ramp, duration_); }));
    gateway_cpu_seconds_ += CpuSeconds(gateway_->pid()) - cpu;
    Report("gateway", gateway.back());
    comments_ += idle_->Drain();
    direct.push_back(
        Measure([&] { return direct_->Run(absl::GetFlag(FLAGS_active), ramp, duration_); }));
    Report("direct", direct.back());
    comments_ += idle_->Drain();
  }
  const double added_p99 = ReportAll("gateway", std::move(gateway));
  ReportAll("direct", std::move(direct));
  return Conclude(added_p99);
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  tessera::bench::RaiseDescriptorLimit();
  return tessera::bench::Bench().Run();
}
