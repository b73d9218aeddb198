#include "gateway/openai/sampling.h"

#include <cstdint>
#include <limits>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "boost/json/object.hpp"
#include "boost/json/value.hpp"
#include "gateway/openai/views.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;
namespace v1 = worker::v1;

constexpr int64_t kMaxUint32 = std::numeric_limits<uint32_t>::max();
constexpr size_t kMaxBiases = 1024;
constexpr double kMaxBias = 100;
// Beyond it nothing is left of a logit anyway.
constexpr double kMaxRepetitionPenalty = 100;

void ReadTruncation(Fields& fields, v1::SamplingOptions* sampling) {
  double temperature = 1.0;
  double top_p = 1.0;
  double min_p = 0.0;
  int64_t top_k = 0;
  fields.Read("temperature", 0.0, 2.0, &temperature);
  fields.Read("top_p", 0.0, 1.0, &top_p);
  if (top_p == 0.0) fields.Fail("top_p", "must be above 0 and at most 1; 1 keeps every token");
  fields.Read("min_p", 0.0, 1.0, &min_p);
  // Others write "all tokens" as -1.
  fields.Read("top_k", -1, kMaxUint32, &top_k);
  sampling->set_temperature(static_cast<float>(temperature));
  sampling->set_top_p(static_cast<float>(top_p));
  sampling->set_min_p(static_cast<float>(min_p));
  sampling->set_top_k(top_k < 0 ? 0 : static_cast<uint32_t>(top_k));
}

void ReadSeed(Fields& fields, v1::SamplingOptions* sampling) {
  const json::value* const seed = fields.Find("seed");
  if (seed == nullptr) return;
  const std::optional<int64_t> number = WholeNumber(*seed);
  if (seed->is_uint64()) {
    sampling->set_seed(seed->get_uint64());
  } else if (number) {
    sampling->set_seed(static_cast<uint64_t>(*number));
  } else {
    fields.Fail("seed", "must be a whole number");
  }
}

void ReadPenalties(Fields& fields, v1::SamplingOptions* sampling) {
  double presence = 0;
  double frequency = 0;
  double repetition = 1;
  fields.Read("presence_penalty", -2.0, 2.0, &presence);
  fields.Read("frequency_penalty", -2.0, 2.0, &frequency);
  fields.Read("repetition_penalty", 0.0, kMaxRepetitionPenalty, &repetition);
  if (static_cast<float>(repetition) == 0) {
    fields.Fail("repetition_penalty", "must be above 0; 1 changes nothing");
  }
  sampling->set_presence_penalty(static_cast<float>(presence));
  sampling->set_frequency_penalty(static_cast<float>(frequency));
  sampling->set_repetition_penalty(static_cast<float>(repetition));
}

void ReadBias(Fields& fields, v1::SamplingOptions* sampling) {
  const json::object* const biases = fields.FindObject("logit_bias");
  if (biases == nullptr) return;
  if (biases->size() > kMaxBiases) {
    return fields.Fail("logit_bias", absl::StrCat("must have at most ", kMaxBiases, " tokens"));
  }
  for (const auto& [token, value] : *biases) {
    uint32_t id = 0;
    const double bias = value.is_number() ? value.to_number<double>() : kMaxBias + 1;
    if (!absl::SimpleAtoi(AbslView(token), &id) || !(bias >= -kMaxBias && bias <= kMaxBias)) {
      return fields.Fail("logit_bias",
                         "must map token ids to numbers from -100 to 100, as {\"50256\": -100}");
    }
    (*sampling->mutable_logit_bias())[id] = static_cast<float>(bias);
  }
}

}  // namespace

void ReadSampling(Fields& fields, v1::SamplingOptions* sampling) {
  int64_t min_tokens = 0;
  ReadTruncation(fields, sampling);
  ReadSeed(fields, sampling);
  ReadPenalties(fields, sampling);
  ReadBias(fields, sampling);
  fields.Read("min_tokens", 0, kMaxUint32, &min_tokens);
  sampling->set_min_tokens(static_cast<uint32_t>(min_tokens));
}

}  // namespace tessera::openai
