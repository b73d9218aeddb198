#include "gateway/openai/controls.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "boost/json/value.hpp"
#include "gateway/openai/error.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/views.h"
#include "gateway/text/utf8.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;
namespace v1 = worker::v1;

constexpr std::string_view kPolicies[] = {"query_v", "query", "hkvd_v", "hkvd_k",
                                          "first_k", "none",  "full",   "random"};
constexpr std::string_view kSaltHeader = "X-Tessera-Cache-Salt";

// A policy, or one with the first rows added, as the worker names them.
bool KnownPolicy(std::string_view policy) {
  constexpr std::string_view kPlusFirst = "+first";
  if (policy.ends_with(kPlusFirst)) policy.remove_suffix(kPlusFirst.size());
  return std::find(std::begin(kPolicies), std::end(kPolicies), policy) != std::end(kPolicies);
}

bool SetMode(const json::value& value, v1::BlendOptions* blend) {
  if (value == "auto") {
    blend->set_mode(v1::AUTO);
  } else if (value == "blend") {
    blend->set_mode(v1::BLEND);
  } else if (value == "exact") {
    blend->set_mode(v1::EXACT);
  } else if (value == "off") {
    blend->set_mode(v1::OFF);
  } else {
    return false;
  }
  return true;
}

bool SetPolicy(const json::value& value, v1::BlendOptions* blend) {
  if (!value.is_string()) return false;
  blend->set_policy(std::string(value.get_string()));
  return KnownPolicy(blend->policy());
}

bool SetRatio(const json::value& value, v1::BlendOptions* blend) {
  const double ratio = value.is_number() ? value.to_number<double>() : -1;
  blend->set_recompute_ratio(static_cast<float>(ratio));
  return ratio >= 0 && ratio <= 1;  // not-a-number fails both
}

bool SetCorrection(const json::value& value, v1::BlendOptions* blend) {
  if (value.is_bool()) blend->set_correction(value.get_bool());
  return value.is_bool();
}

bool SetStore(const json::value& value, v1::BlendOptions* blend) {
  if (value.is_bool()) blend->set_store(value.get_bool());
  return value.is_bool();
}

bool SetReportRows(const json::value& value, v1::BlendOptions* blend) {
  if (value.is_bool()) blend->set_report_rows(value.get_bool());
  return value.is_bool();
}

struct Control {
  std::string_view field;
  std::string_view header;
  std::string_view must;
  // False for a value that is no good.
  bool (*set)(const json::value& value, v1::BlendOptions* blend);
};

constexpr Control kControls[] = {
    {"mode", "X-Tessera-Mode", "must be auto, blend, exact or off", SetMode},
    {"policy", "X-Tessera-Policy",
     "must be one of query_v, query, hkvd_v, hkvd_k, first_k, none, full, random, or one of them "
     "with +first",
     SetPolicy},
    {"recompute_ratio", "X-Tessera-Recompute-Ratio", "must be a number from 0 to 1", SetRatio},
    {"correction", "X-Tessera-Correction", "must be true or false", SetCorrection},
    {"store", "X-Tessera-Store", "must be true or false", SetStore},
    {"report_rows", "X-Tessera-Report-Rows", "must be true or false", SetReportRows},
};

std::string_view HeaderValue(const http::Request& request, std::string_view header) {
  return request.Header(absl::AsciiStrToLower(AbslView(header)));
}

// What a header's text would be in JSON.
json::value AsJson(std::string_view text) {
  double number = 0;
  if (text == "true" || text == "false") return text == "true";
  if (absl::SimpleAtod(AbslView(text), &number)) return number;
  return json::string_view(text);
}

}  // namespace

absl::Status ReadControls(const http::Request& request, const json::object* object,
                          v1::BlendOptions* blend) {
  for (const Control& control : kControls) {
    const std::string_view text = HeaderValue(request, control.header);
    if (text.empty() || control.set(AsJson(text), blend)) continue;
    return ParameterError(control.header, absl::StrCat("the header ", AbslView(control.header), " ",
                                                       AbslView(control.must)));
  }
  if (object == nullptr) return absl::OkStatus();
  Fields fields(*object, "tessera.");
  for (const Control& control : kControls) {
    const json::value* const value = fields.Find(control.field);
    if (value != nullptr && !control.set(*value, blend)) fields.Fail(control.field, control.must);
  }
  for (const auto& field : *object) {
    const auto known = [&](const Control& control) { return field.key() == control.field; };
    if (std::any_of(std::begin(kControls), std::end(kControls), known)) continue;
    fields.Fail(field.key(),
                "is not known: use mode, policy, recompute_ratio, correction, store, report_rows");
  }
  return fields.status();
}

absl::Status ReadSaltHeader(const http::Request& request, std::string* salt) {
  const std::string_view value = HeaderValue(request, kSaltHeader);
  if (FindInvalidUtf8(value) != std::string_view::npos) {
    return ParameterError(kSaltHeader,
                          absl::StrCat("the header ", AbslView(kSaltHeader), " must be UTF-8"));
  }
  if (!value.empty()) *salt = value;
  return absl::OkStatus();
}

}  // namespace tessera::openai
