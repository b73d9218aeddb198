#include "gateway/openai/api.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/version.h"
#include "boost/json/array.hpp"
#include "boost/json/object.hpp"
#include "boost/json/serialize.hpp"
#include "gateway/openai/error.h"
#include "gateway/openai/exchange.h"
#include "gateway/openai/request_id.h"
#include "gateway/openai/task.h"
#include "gateway/openai/tokenize.h"
#include "gateway/openai/views.h"
#include "gateway/text/utf8.h"
#include "glog/logging.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

constexpr std::string_view kModelPrefix = "/v1/models/";
constexpr char kMetricsType[] = "text/plain; version=0.0.4; charset=utf-8";

http::Response JsonResponse(int status, const json::object& body) {
  http::Response response;
  response.status = status;
  response.body = json::serialize(body);
  return response;
}

// What metrics call a path, and the methods that it answers, comma-separated.
struct RouteName {
  std::string_view name;
  std::string_view methods;
};

constexpr std::string_view kGet = "GET, HEAD";
constexpr RouteName kRoutes[] = {
    {"/v1/chat/completions", "POST"},
    {"/v1/completions", "POST"},
    {"/v1/models", kGet},
    {"/tokenize", "POST"},
    {"/detokenize", "POST"},
    {"/health", kGet},
    {"/ping", kGet},
    {"/version", kGet},
    {"/metrics", kGet},
    {"/cluster", kGet},
};
constexpr RouteName kModelRoute = {"/v1/models/{id}", kGet};
constexpr RouteName kLiveRoute = {"/live", kGet};
constexpr RouteName kNoRoute = {"other", {}};

RouteName RouteOf(std::string_view path) {
  for (const RouteName& route : kRoutes) {
    if (path == route.name) return route;
  }
  if (path.size() > kModelPrefix.size() && path.substr(0, kModelPrefix.size()) == kModelPrefix) {
    return kModelRoute;
  }
  const std::string_view chunks = ChunkApi::RouteOf(path);
  if (!chunks.empty()) return {chunks, ChunkApi::MethodsOf(chunks)};
  return kNoRoute;
}

bool Allows(std::string_view methods, std::string_view method) {
  for (const absl::string_view allowed : absl::StrSplit(AbslView(methods), ", ")) {
    if (StdView(allowed) == method) return true;
  }
  return false;
}

std::optional<Endpoint> EndpointOf(std::string_view path) {
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
                                    ": see /v1/chat/completions, /v1/completions, /v1/chunks, "
                                    "/v1/models"),
                       {}, {}));
}

absl::Status NoWorker() {
  return absl::UnavailableError("no worker is ready: the model may still be loading");
}

http::Response Refusal(const absl::Status& status) {
  const bool unknown = absl::IsUnauthenticated(status);
  return ErrorResponse(
      WithParameter(status, {}, unknown ? "invalid_api_key" : "rate_limit_exceeded"));
}

ChunkApiOptions ChunkOptionsOf(const ApiOptions& options) {
  ChunkApiOptions chunks = options.chunks;
  chunks.text = options.text;
  chunks.segmenter = options.segmenter;
  chunks.workers = options.completion.workers;
  return chunks;
}

CompletionContext CompletionContextOf(const ApiOptions& options, ChunkApi* chunks,
                                      CompletionObserver* observer) {
  CompletionContext context = options.completion;
  context.chunk_texts = chunks->has_cache() ? chunks : nullptr;
  context.observer = observer;
  return context;
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
    : options_(options),
      started_(absl::ToUnixSeconds(absl::Now())),
      access_(options.access),
      metrics_(Metrics::Make()),
      api_metrics_(metrics_.get(), {.workers = options.completion.workers,
                                    .waiting = [this] { return waiting_.load(); },
                                    .vllm_names = options.vllm_metric_names}),
      cluster_(options.completion.workers, options.chunks.cache),
      observer_(this),
      chunks_(ChunkOptionsOf(options),
              [this](size_t caller, uint64_t tokens) { Charge(caller, tokens); }),
      completion_(CompletionContextOf(options, &chunks_, &observer_)),
      threads_(static_cast<size_t>(options.prepare_threads), options.max_queued) {
  CHECK(options.text != nullptr || options.chunks.cache == nullptr) << "chunks need the text";
  metrics_->AddSource(OwnSamples());
}

Api::~Api() { metrics_->RemoveSources(); }

void Api::Observer::OnFinished(const CompletionReport& report) {
  api_.api_metrics_.OnFinished(report);
  api_.cluster_.Count(report.usage);
  const worker::v1::PromptUsage& usage = report.usage;
  api_.Charge(report.caller, uint64_t{usage.exact_tokens()} + usage.blended_tokens() +
                                 usage.recomputed_tokens() + usage.computed_tokens() +
                                 report.completion_tokens);
}

void Api::Charge(size_t caller, uint64_t tokens) { access_.Charge(caller, tokens, absl::Now()); }

std::unique_ptr<http::Work> Api::Handle(http::Request request, http::Reply& reply) {
  std::string request_id = RequestId(request.Header("x-request-id"));
  const bool live = IsLivePage(request.path);
  AccessDecision access = live ? AccessDecision() : access_.Check(request, absl::Now());
  // Nobody learns which routes there are, and no series is made, without a key.
  const RouteName route = live                                     ? kLiveRoute
                          : absl::IsUnauthenticated(access.status) ? kNoRoute
                                                                   : RouteOf(request.path);
  access.headers.emplace_back("X-Request-Id", request_id);
  auto exchange = std::make_unique<Exchange>(
      std::move(access.headers),
      [this, name = route.name, request_id](int status) {
        api_metrics_.CountResponse(name, status);
        LOG_EVENT(kDebug, "response")
            .With("request", request_id)
            .With("route", name)
            .With("status", status);
      },
      &reply);
  std::optional<http::Response> refusal;
  if (!access.status.ok()) {
    refusal = Refusal(access.status);
    if (absl::IsResourceExhausted(access.status)) {
      api_metrics_.CountRateLimited(access_.CallerName(access.caller));
    }
  } else if (route.methods.empty()) {
    refusal = UnknownRoute(request.path);
  } else if (!Allows(route.methods, request.method)) {
    refusal = MethodNotAllowed(request.path, route.methods);
  }
  if (refusal) {
    LOG_EVENT_LIMITED(kInfo, "request_refused")
        .With("request", request_id)
        .With("route", route.name)
        .With("caller", access_.CallerName(access.caller))
        .With("status", refusal->status)
        .WithError(access.status);
    exchange->Send(*std::move(refusal));
    return nullptr;
  }
  std::unique_ptr<http::Work> work =
      Route(std::move(request), std::move(request_id), access.caller, *exchange);
  // Null: answered already, so that nothing is needed any more.
  if (work == nullptr) return nullptr;
  exchange->set_work(std::move(work));
  return exchange;
}

std::unique_ptr<http::Work> Api::Route(http::Request request, std::string request_id, size_t caller,
                                       http::Reply& reply) {
  if (const std::optional<Endpoint> endpoint = EndpointOf(request.path)) {
    return Complete(*endpoint, std::move(request), std::move(request_id), caller, reply);
  }
  if (!ChunkApi::RouteOf(request.path).empty()) {
    return chunks_.Handle(std::move(request), std::move(request_id), caller, reply);
  }
  if (request.method == "POST") {
    return RunTokenizer(std::move(request), reply);
  }
  if (request.path == "/cluster") {
    // On a thread that may wait for the cache server.
    return chunks_.Run([this] { return JsonResponse(200, cluster_.Report()); }, reply);
  }
  reply.Send(IsLivePage(request.path) ? options_.live_page->Get(request) : Get(request.path));
  return nullptr;
}

http::Response Api::Refuse(int status, std::string_view message) {
  LOG_EVENT_LIMITED(kInfo, "request_refused").With("status", status).With("error", message);
  http::Response response = JsonResponse(status, ErrorObject(status, message, {}, {}));
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

std::unique_ptr<http::Work> Api::Complete(Endpoint endpoint, http::Request request,
                                          std::string request_id, size_t caller,
                                          http::Reply& reply) {
  auto completion = std::make_unique<Completion>(completion_, endpoint, std::move(request),
                                                 std::move(request_id), caller, &reply);
  Completion* const running = completion.get();
  ++waiting_;
  const bool taken = threads_.TryRun([this, running] {
    --waiting_;
    running->Run();
  });
  if (!taken) {
    --waiting_;
    running->Refuse(
        absl::ResourceExhaustedError("too many requests are waiting here: retry later"));
  }
  return completion;
}

std::unique_ptr<http::Work> Api::RunTokenizer(http::Request request, http::Reply& reply) {
  CHECK(options_.text != nullptr);
  const auto shared = std::make_shared<const http::Request>(std::move(request));
  return Task::Run(
      threads_,
      [this, shared]() -> http::Response {
        const TokenizeContext context = {options_.text, options_.segmenter,
                                         completion_.chunk_texts};
        const auto model = completion_.workers->Model();
        if (!model) return ErrorResponse(NoWorker());
        const absl::StatusOr<json::object> body = shared->path == "/tokenize"
                                                      ? Tokenize(context, *model, *shared)
                                                      : Detokenize(context, *model, *shared);
        return body.ok() ? JsonResponse(200, *body) : ErrorResponse(body.status());
      },
      reply);
}

http::Response Api::Get(std::string_view path) {
  if (path == "/health") return Health();
  if (path == "/ping") return JsonResponse(200, {{"status", "ok"}});
  if (path == "/version") {
    return JsonResponse(200, {{"version", json::string_view(kVersion)}});
  }
  if (path == "/metrics") {
    return {.content_type = kMetricsType, .headers = {}, .body = metrics_->Text()};
  }
  if (path == "/v1/models") return ListModels();
  return GetModel(path.substr(kModelPrefix.size()));
}

http::Response Api::Health() const {
  if (completion_.workers->ready()) return JsonResponse(200, {{"status", "ready"}});
  return JsonResponse(503, {{"status", "loading"}});
}

http::Response Api::ListModels() const {
  json::array models;
  const auto model = completion_.workers->Model();
  if (model) models.push_back(ModelObject(*model, started_));
  json::object list;
  list["object"] = "list";
  list["data"] = std::move(models);
  return JsonResponse(200, list);
}

http::Response Api::GetModel(std::string_view id) const {
  const auto model = completion_.workers->Model();
  if (!model) {
    return ErrorResponse(NoWorker());
  }
  if (id != model->name()) {
    const bool readable = FindInvalidUtf8(id) == std::string_view::npos;
    return ErrorResponse(ModelNotFound(readable ? id : "", model->name()));
  }
  return JsonResponse(200, ModelObject(*model, started_));
}

MetricSource Api::OwnSamples() const {
  const auto sample = [](const char* name, const char* help, bool counter, uint64_t value) {
    return MetricSample{name, help, counter, {}, static_cast<double>(value)};
  };
  const IngestTotals* const totals = &chunks_.totals();
  return [totals, sample]() -> std::vector<MetricSample> {
    return {
        sample("tessera_chunk_ingests_running", "Requests to store texts that run now.", false,
               totals->open),
        sample("tessera_chunks_stored_total", "Texts that were stored ahead.", true,
               totals->stored),
        sample("tessera_chunks_failed_total", "Texts that could not be stored ahead.", true,
               totals->failed),
        sample("tessera_chunk_tokens_total", "Tokens of texts that were stored ahead.", true,
               totals->tokens),
        sample("tessera_chunk_cached_tokens_total", "Of these, what the cache had already.", true,
               totals->cached_tokens),
    };
  };
}

}  // namespace tessera::openai
