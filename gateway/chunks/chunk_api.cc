#include "gateway/chunks/chunk_api.h"

#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "base/status_macros.h"
#include "boost/json/array.hpp"
#include "boost/json/object.hpp"
#include "boost/json/serialize.hpp"
#include "gateway/chunks/chunk_json.h"
#include "gateway/chunks/chunk_request.h"
#include "gateway/openai/error.h"
#include "gateway/openai/views.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

constexpr std::string_view kChunks = "/v1/chunks";
constexpr std::string_view kChunk = "/v1/chunks/{id}";
constexpr std::string_view kPin = "/v1/chunks/{id}/pin";
constexpr std::string_view kPinSuffix = "/pin";

absl::Status NoCache() {
  return absl::FailedPreconditionError(
      "this gateway has no cache server: start it with the option 'cache' to use chunks");
}

absl::Status NotFoundCode(const absl::Status& status) {
  return WithParameter(status, {}, absl::IsNotFound(status) ? "chunk_not_found" : "");
}

http::Response Json(const json::object& body) {
  http::Response response;
  response.body = json::serialize(body);
  return response;
}

// The id in a path of kChunk or kPin.
std::string_view IdIn(std::string_view path) {
  path.remove_prefix(kChunks.size() + 1);
  return path.substr(0, path.find('/'));
}

}  // namespace

ChunkApi::ChunkApi(const ChunkApiOptions& options,
                   std::function<void(size_t caller, uint64_t tokens)> charge)
    : options_(options),
      records_(options.cache),
      ingest_{.text = options.text,
              .segmenter = options.segmenter,
              .workers = options.workers,
              .cache = options.cache,
              .threads = &threads_,
              .totals = &totals_,
              .charge = std::move(charge),
              .max_texts = options.max_texts,
              .lanes_per_worker = options.lanes_per_worker,
              .max_lanes = options.max_lanes,
              .prefill_timeout = options.prefill_timeout},
      threads_(options.threads, options.max_calls + options.max_ingests * (options.max_lanes + 1)) {
}

std::string_view ChunkApi::RouteOf(std::string_view path) {
  if (path == kChunks) return kChunks;
  if (path.substr(0, kChunks.size()) != kChunks || path.size() <= kChunks.size() + 1 ||
      path[kChunks.size()] != '/') {
    return {};
  }
  const std::string_view rest = path.substr(kChunks.size() + 1);
  const size_t slash = rest.find('/');
  if (slash == 0) return {};
  if (slash == std::string_view::npos) return kChunk;
  return rest.substr(slash) == kPinSuffix ? kPin : std::string_view();
}

std::string_view ChunkApi::MethodsOf(std::string_view route) {
  if (route == kChunks) return "GET, POST";
  return route == kChunk ? "GET, DELETE" : "POST, DELETE";
}

std::unique_ptr<http::Work> ChunkApi::Handle(http::Request request, std::string request_id,
                                             size_t caller, http::Reply& reply) {
  const auto refuse = [&](const absl::Status& status) {
    reply.Send(ErrorResponse(status));
    return nullptr;
  };
  if (!has_cache()) return refuse(NoCache());
  if (request.path == kChunks && request.method == "POST") {
    if (totals_.open.fetch_add(1) >= options_.max_ingests) {
      --totals_.open;
      return refuse(absl::ResourceExhaustedError(
          "as many requests as may run at a time are storing texts: retry later"));
    }
    auto ingest = std::make_unique<Ingest>(ingest_, std::move(request), std::move(request_id),
                                           caller, &reply);
    Ingest* const running = ingest.get();
    if (!threads_.TryRun([running] { running->Run(); })) {
      running->Refuse(absl::ResourceExhaustedError("too many requests are waiting: retry later"));
    }
    return ingest;
  }
  const auto shared = std::make_shared<const http::Request>(std::move(request));
  return Run(
      [this, shared] {
        absl::StatusOr<http::Response> answer = Answer(*shared);
        return answer.ok() ? *std::move(answer) : ErrorResponse(answer.status());
      },
      reply);
}

std::unique_ptr<http::Work> ChunkApi::Run(Task::Answer answer, http::Reply& reply) {
  // Places of the queue that ingests count on are not taken.
  if (open_calls_.fetch_add(1) >= options_.max_calls) {
    --open_calls_;
    reply.Send(
        ErrorResponse(absl::ResourceExhaustedError("too many requests are waiting: retry later")));
    return nullptr;
  }
  return Task::Run(
      threads_,
      [this, answer = std::move(answer)] {
        http::Response response = answer();
        --open_calls_;
        return response;
      },
      reply);
}

absl::StatusOr<http::Response> ChunkApi::Answer(const http::Request& request) {
  const std::string_view route = RouteOf(request.path);
  if (route == kChunks) return List(request);
  ASSIGN_OR_RETURN(const std::string salt, SaltOf(request));
  absl::StatusOr<std::string> key = ParseChunkId(IdIn(request.path));
  if (!key.ok()) return WithParameter(key.status(), "id");
  if (route == kChunk) {
    return request.method == "DELETE" ? Delete(*key, salt) : Get(*key, salt);
  }
  if (request.method == "DELETE") return Unpin(*key, salt);
  ASSIGN_OR_RETURN(const absl::Duration ttl, ParsePin(request));
  return Pin(*key, salt, ttl);
}

absl::StatusOr<http::Response> ChunkApi::List(const http::Request& request) {
  ASSIGN_OR_RETURN(const std::string salt, SaltOf(request));
  ASSIGN_OR_RETURN(const ListChunksRequest list, ParseList(request));
  absl::StatusOr<RecordPage> page = records_.List(salt, list.limit, list.after);
  if (!page.ok()) {
    return WithParameter(page.status(), absl::IsInvalidArgument(page.status()) ? "after" : "");
  }
  CacheCalls::Keys pieces;
  for (const FoundRecord& found : page->records) {
    pieces.insert(pieces.end(), found.record.piece_keys().begin(), found.record.piece_keys().end());
  }
  ASSIGN_OR_RETURN(const CacheCalls::Keys missing, options_.cache->FindMissing(pieces));
  const absl::flat_hash_set<std::string> absent(missing.begin(), missing.end());
  json::array chunks;
  for (const FoundRecord& found : page->records) chunks.push_back(ChunkObject(found, absent));
  json::object body;
  body["object"] = "list";
  body["data"] = std::move(chunks);
  body["has_more"] = !page->next_token.empty();
  body["last_id"] = page->next_token.empty() ? json::value(nullptr) : json::value(page->next_token);
  return Json(body);
}

absl::StatusOr<chunks::v1::ChunkRecord> ChunkApi::Find(const std::string& key,
                                                       std::string_view salt) {
  absl::StatusOr<chunks::v1::ChunkRecord> record = records_.Get(key, salt);
  if (!record.ok()) return NotFoundCode(record.status());
  return record;
}

absl::StatusOr<http::Response> ChunkApi::Get(const std::string& key, const std::string& salt) {
  ASSIGN_OR_RETURN(chunks::v1::ChunkRecord record, Find(key, salt));
  const CacheCalls::Keys pieces(record.piece_keys().begin(), record.piece_keys().end());
  ASSIGN_OR_RETURN(const CacheCalls::Keys missing, options_.cache->FindMissing(pieces));
  ASSIGN_OR_RETURN(const std::optional<absl::Duration> pinned, records_.PinOf(key, salt));
  const std::string text = record.text();
  json::object body = ChunkObject({std::move(record), pinned}, {missing.begin(), missing.end()});
  body["text"] = text;
  return Json(body);
}

absl::StatusOr<http::Response> ChunkApi::Delete(const std::string& key, const std::string& salt) {
  ASSIGN_OR_RETURN(const chunks::v1::ChunkRecord record, Find(key, salt));
  // The record last: a call that fails on the way can be made again.
  RETURN_IF_ERROR(options_.cache->Delete(KeysOf(record)).status());
  return Json({{"id", ChunkId(key)}, {"object", "chunk.deleted"}, {"deleted", true}});
}

absl::StatusOr<http::Response> ChunkApi::Pin(const std::string& key, const std::string& salt,
                                             absl::Duration ttl) {
  ASSIGN_OR_RETURN(const chunks::v1::ChunkRecord record, Find(key, salt));
  const absl::StatusOr<absl::Time> until = PinKeys(*options_.cache, KeysOf(record), ttl);
  if (absl::IsInvalidArgument(until.status())) return WithParameter(until.status(), "ttl_seconds");
  if (!until.ok()) return NotFoundCode(until.status());
  return Json(
      {{"id", ChunkId(key)}, {"object", "chunk"}, {"pinned_until", PinnedUntilOrNull(*until)}});
}

absl::StatusOr<http::Response> ChunkApi::Unpin(const std::string& key, const std::string& salt) {
  ASSIGN_OR_RETURN(const chunks::v1::ChunkRecord record, Find(key, salt));
  RETURN_IF_ERROR(options_.cache->Unpin(KeysOf(record)));
  return Json({{"id", ChunkId(key)}, {"object", "chunk"}, {"pinned_until", nullptr}});
}

absl::StatusOr<std::string> ChunkApi::TextOf(std::string_view id, std::string_view salt) {
  if (!has_cache()) return NoCache();
  ASSIGN_OR_RETURN(const std::string key, ParseChunkId(id));
  ASSIGN_OR_RETURN(chunks::v1::ChunkRecord record, Find(key, salt));
  return std::move(*record.mutable_segment_text());
}

}  // namespace tessera::openai
