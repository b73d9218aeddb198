#include "gateway/chunks/chunk_request.h"

#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "boost/json/object.hpp"
#include "boost/json/value.hpp"
#include "gateway/openai/controls.h"
#include "gateway/openai/error.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/views.h"
#include "gateway/text/utf8.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

// What a cache server allows is less; this only keeps the arithmetic sound.
constexpr double kMaxTtlSeconds = 10.0 * 365 * 24 * 3600;
constexpr uint32_t kMaxLimit = 1000;

absl::StatusOr<ChatDocument> ParseText(const json::value& value, const std::string& name) {
  ChatDocument document;
  if (value.is_string()) {
    document.text = std::string(value.get_string());
  } else if (value.is_object()) {
    Fields fields(value.get_object(), name + ".");
    fields.Read("title", &document.title);
    fields.Read("text", &document.text);
    RETURN_IF_ERROR(fields.status());
  } else {
    return ParameterError(
        name, absl::StrCat("'", name, "' must be a string or {\"title\": ..., \"text\": ...}"));
  }
  if (document.text.empty()) {
    return ParameterError(name, absl::StrCat("'", name, "' has no text: leave it out"));
  }
  return document;
}

absl::Status ReadTexts(const json::object& body, size_t max_texts,
                       std::vector<ChatDocument>* texts) {
  Fields fields(body);
  const bool documents = fields.Find("texts") == nullptr;
  const char* const name = documents ? "documents" : "texts";
  const json::value* const value = fields.Find(name);
  if (value == nullptr) {
    fields.Fail("texts", "is required: an array of strings or of {\"title\": ..., \"text\": ...}");
    return fields.status();
  }
  if (!documents && fields.Find("documents") != nullptr) {
    fields.Fail("documents", "and 'texts' are the same thing: send one of them");
    return fields.status();
  }
  if (!value->is_array() || value->get_array().empty()) {
    fields.Fail(name, "must be an array of at least one text");
    return fields.status();
  }
  const json::array& list = value->get_array();
  if (list.size() > max_texts) {
    fields.Fail(name, absl::StrCat("has ", list.size(), " texts, and at most ", max_texts,
                                   " are taken at a time: send several requests"));
    return fields.status();
  }
  for (size_t i = 0; i < list.size(); ++i) {
    ASSIGN_OR_RETURN(ChatDocument text, ParseText(list[i], absl::StrCat(name, "[", i, "]")));
    texts->push_back(std::move(text));
  }
  return absl::OkStatus();
}

std::optional<absl::Duration> ReadTtl(Fields& fields) {
  if (fields.Find("ttl_seconds") == nullptr) return std::nullopt;
  double seconds = 0;
  fields.Read("ttl_seconds", 0.001, kMaxTtlSeconds, &seconds);
  return absl::Seconds(seconds);
}

}  // namespace

absl::StatusOr<IngestRequest> ParseIngest(const http::Request& request, size_t max_texts) {
  ASSIGN_OR_RETURN(const json::object body, ParseObject(request.body));
  IngestRequest ingest;
  ASSIGN_OR_RETURN(ingest.cache_salt, SaltOf(request));
  Fields fields(body);
  fields.Read("model", &ingest.model);
  fields.Read("cache_salt", &ingest.cache_salt);
  fields.Read("stream", &ingest.stream);
  ingest.ttl = ReadTtl(fields);
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(ReadTexts(body, max_texts, &ingest.texts));
  return ingest;
}

absl::StatusOr<std::string> SaltOf(const http::Request& request) {
  std::string salt;
  RETURN_IF_ERROR(ReadSaltHeader(request, &salt));
  const std::optional<std::string_view> query = request.Query("cache_salt");
  if (!query) return salt;
  if (FindInvalidUtf8(*query) != std::string_view::npos) {
    return ParameterError("cache_salt", "'cache_salt' must be UTF-8");
  }
  return std::string(*query);
}

absl::StatusOr<absl::Duration> ParsePin(const http::Request& request) {
  ASSIGN_OR_RETURN(const json::object body, ParseObject(request.body));
  Fields fields(body);
  const std::optional<absl::Duration> ttl = ReadTtl(fields);
  if (!ttl) fields.Fail("ttl_seconds", "is required: how many seconds the chunk stays in memory");
  RETURN_IF_ERROR(fields.status());
  return *ttl;
}

absl::StatusOr<ListChunksRequest> ParseList(const http::Request& request) {
  ListChunksRequest list;
  list.after = std::string(request.Query("after").value_or(""));
  const std::optional<std::string_view> limit = request.Query("limit");
  const bool sound = !limit || (absl::SimpleAtoi(AbslView(*limit), &list.limit) &&
                                list.limit >= 1 && list.limit <= kMaxLimit);
  if (!sound) {
    return ParameterError("limit",
                          absl::StrCat("'limit' must be a whole number from 1 to ", kMaxLimit));
  }
  return list;
}

}  // namespace tessera::openai
