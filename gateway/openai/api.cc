#include "gateway/openai/api.h"

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "boost/json/array.hpp"
#include "boost/json/object.hpp"
#include "boost/json/serialize.hpp"
#include "gateway/openai/error.h"
#include "gateway/openai/request_id.h"
#include "gateway/openai/views.h"
#include "gateway/text/utf8.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

constexpr std::string_view kVersion = "0.1.0";
constexpr std::string_view kModelPrefix = "/v1/models/";

http::Response JsonResponse(int status, const json::object& body) {
  http::Response response;
  response.status = status;
  response.body = json::serialize(body);
  return response;
}

bool IsGetRoute(std::string_view path) {
  return path == "/health" || path == "/ping" || path == "/version" || path == "/v1/models" ||
         (path.substr(0, kModelPrefix.size()) == kModelPrefix && path.size() > kModelPrefix.size());
}

std::optional<Endpoint> PostRoute(std::string_view path) {
  if (path == "/v1/completions") return Endpoint::kCompletions;
  if (path == "/v1/chat/completions") return Endpoint::kChat;
  return std::nullopt;
}

http::Response MethodNotAllowed(std::string_view path, std::string_view allowed) {
  http::Response response = JsonResponse(
      405,
      ErrorObject(405, absl::StrCat(AbslView(path), " only answers ", AbslView(allowed)), {}, {}));
  response.headers.emplace_back("Allow", allowed);
  return response;
}

http::Response UnknownRoute(std::string_view path) {
  // JSON must be UTF-8, a path need not be.
  const std::string_view shown = FindInvalidUtf8(path) == std::string_view::npos ? path : "";
  return JsonResponse(
      404, ErrorObject(404,
                       absl::StrCat("there is no route ", AbslView(shown),
                                    ": see /v1/chat/completions, /v1/completions, /v1/models"),
                       {}, {}));
}

json::object ModelObject(const worker::v1::GetModelResponse& model, int64_t created) {
  json::object object;
  object["id"] = model.name();
  object["object"] = "model";
  object["created"] = created;
  object["owned_by"] = "tessera";
  object["max_model_len"] = model.max_len();
  return object;
}

}  // namespace

Api::Api(const ApiOptions& options)
    : options_(options), started_(absl::ToUnixSeconds(absl::Now())), queue_(options.max_queued) {
  for (int i = 0; i < options_.prepare_threads; ++i) {
    threads_.emplace_back([this] {
      while (const std::optional<Completion*> completion = queue_.Pop()) (*completion)->Run();
    });
  }
}

Api::~Api() {
  queue_.Close();
  for (std::thread& thread : threads_) thread.join();
}

std::unique_ptr<http::Work> Api::Handle(http::Request request, http::Reply& reply) {
  std::string request_id = RequestId(request.Header("x-request-id"));
  const std::optional<Endpoint> endpoint = PostRoute(request.path);
  http::Response response;
  if (endpoint && request.method == "POST") {
    return Complete(*endpoint, std::move(request), std::move(request_id), reply);
  }
  if (endpoint) {
    response = MethodNotAllowed(request.path, "POST");
  } else if (!IsGetRoute(request.path)) {
    response = UnknownRoute(request.path);
  } else if (request.method == "GET") {
    response = Get(request.path);
  } else {
    response = MethodNotAllowed(request.path, "GET");
  }
  response.headers.emplace_back("X-Request-Id", std::move(request_id));
  reply.Send(std::move(response));
  return nullptr;
}

http::Response Api::Refuse(int status, std::string_view message) {
  http::Response response = JsonResponse(status, ErrorObject(status, message, {}, {}));
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

std::unique_ptr<http::Work> Api::Complete(Endpoint endpoint, http::Request request,
                                          std::string request_id, http::Reply& reply) {
  auto completion = std::make_unique<Completion>(
      options_.completion, endpoint, std::move(request_id), std::move(request.body), &reply);
  if (!queue_.TryPush(completion.get())) {
    completion->Refuse(
        absl::ResourceExhaustedError("too many requests are waiting here: retry later"));
  }
  return completion;
}

http::Response Api::Get(std::string_view path) const {
  if (path == "/health") return Health();
  if (path == "/ping") return JsonResponse(200, {{"status", "ok"}});
  if (path == "/version") {
    return JsonResponse(200, {{"version", json::string_view(kVersion)}});
  }
  if (path == "/v1/models") return ListModels();
  return GetModel(path.substr(kModelPrefix.size()));
}

http::Response Api::Health() const {
  if (options_.completion.workers->ready()) return JsonResponse(200, {{"status", "ready"}});
  return JsonResponse(503, {{"status", "loading"}});
}

http::Response Api::ListModels() const {
  json::array models;
  const auto model = options_.completion.workers->Model();
  if (model) models.push_back(ModelObject(*model, started_));
  json::object list;
  list["object"] = "list";
  list["data"] = std::move(models);
  return JsonResponse(200, list);
}

http::Response Api::GetModel(std::string_view id) const {
  const auto model = options_.completion.workers->Model();
  if (!model) {
    return ErrorResponse(
        absl::UnavailableError("no worker is ready: the model may still be loading"));
  }
  if (id != model->name()) {
    const bool readable = FindInvalidUtf8(id) == std::string_view::npos;
    return ErrorResponse(ModelNotFound(readable ? id : "", model->name()));
  }
  return JsonResponse(200, ModelObject(*model, started_));
}

}  // namespace tessera::openai
