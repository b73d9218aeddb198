#include "gpu_worker/device/cuda/gemm_prepare.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "xxhash.h"

namespace tessera::cuda {
namespace {

constexpr absl::string_view kChecksum = "xxh3 ";

std::string Hash(absl::string_view bytes) {
  return absl::StrCat(absl::Hex(XXH3_64bits(bytes.data(), bytes.size()), absl::kZeroPad16));
}

std::string HeaderOf(const GemmPlatform& platform) {
  return absl::StrCat("tessera products 1\ncard ", platform.card, "\ncompute ",
                      platform.compute_major, ".", platform.compute_minor, "\ncublaslt ",
                      platform.library, "\ndriver ", platform.driver, "\n");
}

// The words of a line, read in order.
class Words {
 public:
  explicit Words(absl::string_view line) : words_(absl::StrSplit(line, ' ')) {}

  template <typename T>
  void Read(T* number) {
    ok_ = ok_ && next_ < words_.size() && absl::SimpleAtoi(words_[next_++], number);
  }
  void Read(float* number) {
    ok_ = ok_ && next_ < words_.size() && absl::SimpleAtof(words_[next_++], number);
  }
  void Read(bool* flag) {
    int number = 2;
    Read(&number);
    ok_ = ok_ && (number == 0 || number == 1);
    *flag = number == 1;
  }
  void ReadHex(uint64_t* number) {
    ok_ = ok_ && next_ < words_.size() && absl::SimpleHexAtoi(words_[next_++], number);
  }
  // All words were read, and were what they should be.
  bool IsDone() const { return ok_ && next_ == words_.size(); }

 private:
  const std::vector<absl::string_view> words_;
  size_t next_ = 0;
  bool ok_ = true;
};

bool ReadChoice(absl::string_view line, GemmChoices* choices) {
  Words words(line);
  GemmProduct product;
  int64_t rows = 0;
  GemmChoice choice;
  words.Read(&product.n);
  words.Read(&product.k);
  words.Read(&product.to_float);
  words.Read(&product.accumulate);
  words.Read(&product.bias);
  words.Read(&rows);
  words.Read(&choice.rank);
  words.Read(&choice.candidates);
  words.Read(&choice.us);
  words.Read(&choice.first_us);
  for (uint64_t& word : choice.algorithm) words.ReadHex(&word);
  if (!words.IsDone() || rows <= 0) return false;
  choices->Set(product, rows, choice);
  return true;
}

using Pair = std::pair<GemmProduct, int64_t>;

// Each once. Powers of two come first: when the time is up, all products have some.
std::vector<Pair> PairsOf(absl::Span<const GemmNeed> needs) {
  std::set<Pair> all;
  for (const GemmNeed& need : needs) {
    for (const int64_t rows : GemmRowsToMeasure(need.most_rows)) all.emplace(need.product, rows);
  }
  std::vector<Pair> pairs(all.begin(), all.end());
  std::stable_partition(pairs.begin(), pairs.end(), [](const Pair& pair) {
    return std::has_single_bit(static_cast<uint64_t>(pair.second));
  });
  return pairs;
}

std::string NameOf(const GemmPlatform& platform, absl::Span<const Pair> pairs) {
  std::string all = platform.card;
  for (const auto& [product, rows] : pairs) {
    absl::StrAppend(&all, "\n", product.n, " ", product.k, " ", product.to_float, " ",
                    product.accumulate, " ", product.bias, " ", rows);
  }
  return absl::StrCat("products-", Hash(all), ".txt");
}

std::optional<GemmChoices> ReadFile(const std::string& path, const GemmPlatform& platform) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  absl::StatusOr<GemmChoices> choices = [&]() -> absl::StatusOr<GemmChoices> {
    ASSIGN_OR_RETURN(const std::string bytes, ReadSmallFile(path, "products"));
    return DecodeGemmChoices(bytes, platform);
  }();
  if (choices.ok()) return *std::move(choices);
  LOG_EVENT(kWarning, "products_file_ignored")
      .With("path", path)
      .WithError(choices.status())
      .With("msg", "products are measured again");
  return std::nullopt;
}

absl::Status WriteFile(const std::string& folder, const std::string& path,
                       const std::string& bytes) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot make ", folder, " (", error.message(), ")"));
  }
  return WriteSmallFile(path, bytes);
}

// Keeps the choices, if they are to be kept, and says where; "nowhere" otherwise.
std::string Keep(const GemmPlatform& platform, const GemmChoices& choices,
                 const std::string& folder, const std::string& path) {
  if (folder.empty()) return "nowhere";
  const absl::Status status = WriteFile(folder, path, EncodeGemmChoices(platform, choices));
  if (status.ok()) return path;
  LOG_EVENT(kWarning, "products_file_not_written")
      .WithError(status)
      .With("msg",
            "the next start measures again: set --device_cache to a folder that can be written");
  return "nowhere";
}

}  // namespace

std::string EncodeGemmChoices(const GemmPlatform& platform, const GemmChoices& choices) {
  std::string bytes = HeaderOf(platform);
  for (const auto& [product, by_rows] : choices.by_product()) {
    for (const auto& [rows, choice] : by_rows) {
      absl::StrAppend(&bytes, product.n, " ", product.k, " ", product.to_float, " ",
                      product.accumulate, " ", product.bias, " ", rows);
      absl::StrAppend(&bytes, " ", choice.rank, " ", choice.candidates, " ", choice.us, " ",
                      choice.first_us);
      for (const uint64_t word : choice.algorithm) {
        absl::StrAppend(&bytes, " ", absl::Hex(word));
      }
      bytes += '\n';
    }
  }
  return absl::StrCat(bytes, kChecksum, Hash(bytes), "\n");
}

absl::StatusOr<GemmChoices> DecodeGemmChoices(absl::string_view bytes,
                                              const GemmPlatform& platform) {
  const size_t end_bytes = kChecksum.size() + 16 + 1;
  const absl::string_view body = bytes.substr(0, bytes.size() - std::min(bytes.size(), end_bytes));
  if (bytes.substr(body.size()) != absl::StrCat(kChecksum, Hash(body), "\n")) {
    return absl::InvalidArgumentError("it is damaged");
  }
  const std::string header = HeaderOf(platform);
  if (body.substr(0, header.size()) != header) {
    return absl::FailedPreconditionError(
        "it is of another card, driver, library or version of this program");
  }
  GemmChoices choices;
  std::vector<absl::string_view> lines = absl::StrSplit(body.substr(header.size()), '\n');
  lines.pop_back();  // what follows the last line's end
  for (const absl::string_view line : lines) {
    if (!ReadChoice(line, &choices)) {
      return absl::InvalidArgumentError(absl::StrCat("a line is not understood: ", line));
    }
  }
  return choices;
}

PreparedGemms PrepareGemms(
    const GemmPlatform& platform, absl::Span<const GemmNeed> needs, const std::string& folder,
    absl::FunctionRef<GemmChoice(const GemmProduct& product, int64_t rows)> measure,
    absl::Duration most_time) {
  const absl::Time start = absl::Now();
  PreparedGemms prepared;
  const std::vector<Pair> pairs = PairsOf(needs);
  const std::string path = absl::StrCat(folder, "/", NameOf(platform, pairs));
  if (!folder.empty()) {
    if (std::optional<GemmChoices> kept = ReadFile(path, platform); kept.has_value()) {
      prepared.choices = *std::move(kept);
      prepared.loaded = static_cast<int64_t>(prepared.choices.size());
      LOG_EVENT(kInfo, "products_loaded")
          .With("pairs", prepared.loaded)
          .WithMs("total_ms", absl::Now() - start)
          .With("path", path);
      return prepared;
    }
  }
  int64_t without_memory = 0;
  for (const auto& [product, rows] : pairs) {
    if (absl::Now() - start >= most_time) break;
    const GemmChoice choice = measure(product, rows);
    if (choice.candidates == 0) {
      ++without_memory;
      continue;
    }
    prepared.choices.Set(product, rows, choice);
    ++prepared.measured;
  }
  prepared.left_out = static_cast<int64_t>(pairs.size()) - prepared.measured;
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  const bool keeps = without_memory == 0 && prepared.measured > 0;
  if (without_memory > 0) {
    LOG_EVENT(kWarning, "products_not_measured")
        .With("pairs", without_memory)
        .With("why", "too little memory of the card is free")
        .With("msg", "cuBLASLt's first choice serves them");
  }
  const std::string kept = keeps ? Keep(platform, prepared.choices, folder, path) : "nowhere";
  LOG_EVENT(kInfo, "products_measured")
      .With("pairs", prepared.measured)
      .With("left_out", prepared.left_out)
      .With("seconds", seconds)
      .With("kept", kept);
  return prepared;
}

}  // namespace tessera::cuda
