#include "gateway/openai/request_id.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"

namespace tessera::openai {
namespace {

constexpr size_t kMaxLength = 128;

// The id goes into log lines and a header: nothing that could end either.
bool Allowed(char c) {
  constexpr std::string_view kMarks = "-_.:/";
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         kMarks.find(c) != std::string_view::npos;
}

}  // namespace

std::string RequestId(std::string_view sent) {
  if (!sent.empty() && sent.size() <= kMaxLength &&
      std::all_of(sent.begin(), sent.end(), Allowed)) {
    return std::string(sent);
  }
  thread_local std::mt19937_64 random(std::random_device{}());
  return absl::StrFormat("%016x%016x", random(), random());
}

}  // namespace tessera::openai
