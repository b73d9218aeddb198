#include "gateway/chunks/ingest.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "boost/json/array.hpp"
#include "boost/json/serialize.hpp"
#include "gateway/chunks/chunk_json.h"
#include "gateway/openai/error.h"
#include "gateway/openai/views.h"
#include "glog/logging.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;
namespace v1 = worker::v1;

constexpr std::string_view kDone = "data: [DONE]\n\n";

std::string EventOf(const json::object& object) {
  return absl::StrCat("data: ", json::serialize(object), "\n\n");
}

// A worker's own words may name its address, or be gRPC's.
absl::Status WorkerError(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return absl::UnavailableError("no worker could compute this text: try again later");
    case absl::StatusCode::kResourceExhausted:
      return absl::ResourceExhaustedError("every worker is busy: send this text again later");
    case absl::StatusCode::kFailedPrecondition:
      return WithParameter(status, {}, "chunks_unavailable");
    default:
      return status;
  }
}

size_t ReadyWorkers(const WorkerPool& pool) {
  size_t ready = 0;
  for (const WorkerState& state : pool.States()) ready += state.ready ? 1 : 0;
  return ready;
}

}  // namespace

Ingest::Ingest(const IngestContext& context, http::Request request, std::string request_id,
               size_t caller, http::Reply* reply)
    : context_(context),
      request_id_(std::move(request_id)),
      caller_(caller),
      reply_(reply),
      http_request_(std::move(request)),
      records_(context.cache) {}

Ingest::~Ingest() { --context_.totals->open; }

void Ingest::Run() {
  const absl::Status status = Start();
  // When lanes have started, the last of them may have destroyed this object already.
  if (!status.ok()) Refuse(status);
}

absl::Status Ingest::Start() {
  model_ = context_.workers->Model();
  ASSIGN_OR_RETURN(request_, ParseIngest(http_request_, context_.max_texts));
  http_request_ = {};
  if (!model_) {
    return absl::UnavailableError("no worker is ready: the model may still be loading");
  }
  RETURN_IF_ERROR(CheckModel(request_.model, model_->name()));
  // Thousands of texts that no cache will take need not be computed first.
  RETURN_IF_ERROR(context_.cache->Ping());
  const size_t lanes =
      std::min({std::max<size_t>(1, ReadyWorkers(*context_.workers)) * context_.lanes_per_worker,
                context_.max_lanes, request_.texts.size()});
  absl::MutexLock lock(&mutex_);
  if (cancelled_) return absl::CancelledError("the client left before its request was started");
  if (request_.stream) {
    reply_->StartEvents({{"X-Accel-Buffering", "no"}});
  }
  outcomes_.resize(request_.texts.size());
  calls_.resize(lanes);
  open_lanes_ = lanes;
  for (size_t lane = 0; lane < lanes; ++lane) {
    CHECK(context_.threads->TryRun([this, lane] { Next(lane); })) << "too few places in the queue";
  }
  return absl::OkStatus();
}

void Ingest::Cancel() {
  absl::MutexLock lock(&mutex_);
  StopLanes();
}

void Ingest::StopLanes() {
  cancelled_ = true;
  for (const auto& call : calls_) {
    if (call != nullptr) call->Cancel();
  }
}

void Ingest::Refuse(const absl::Status& status) { reply_->Send(ErrorResponse(status)); }

void Ingest::Next(size_t lane) {
  while (true) {
    size_t index = 0;
    {
      absl::MutexLock lock(&mutex_);
      if (cancelled_ || next_text_ == request_.texts.size()) break;
      index = next_text_++;
    }
    const absl::Status status = Prefill(lane, index);
    // From here on the lane belongs to the callback.
    if (status.ok()) return;
    SetOutcome(index, status);
  }
  EndLane();
}

absl::Status Ingest::Prefill(size_t lane, size_t index) {
  absl::StatusOr<std::vector<uint32_t>> ids =
      SegmentChunk(*context_.text, request_.texts[index], context_.segmenter);
  const std::string param = absl::StrCat("texts[", index, "]");
  if (!ids.ok()) return WithParameter(ids.status(), param);
  if (ids->size() >= model_->max_len()) {
    return ParameterError(param,
                          absl::StrCat("the text has ", ids->size(), " tokens, and the model's ",
                                       "context is ", model_->max_len(), ": cut it into several"),
                          "context_length_exceeded");
  }
  v1::PrefillChunkRequest request;
  request.set_request_id(absl::StrCat(request_id_, "-", index));
  request.mutable_segment()->mutable_token_ids()->Add(ids->begin(), ids->end());
  request.set_cache_salt(request_.cache_salt);
  // A callback that comes before the call is stored waits for this lock.
  absl::MutexLock lock(&mutex_);
  if (cancelled_) return absl::CancelledError("the client has left");
  absl::StatusOr<std::unique_ptr<WorkerCall>> call = context_.workers->PrefillChunk(
      std::move(request), absl::Now() + context_.prefill_timeout,
      [this, lane, index](absl::StatusOr<v1::PrefillChunkResponse> response) {
        OnPrefilled(lane, index, std::move(response));
      });
  if (!call.ok()) return WorkerError(call.status());
  calls_[lane] = *std::move(call);
  return absl::OkStatus();
}

void Ingest::OnPrefilled(size_t lane, size_t index,
                         absl::StatusOr<v1::PrefillChunkResponse> response) {
  std::unique_ptr<WorkerCall> call;
  {
    absl::MutexLock lock(&mutex_);
    call = std::move(calls_[lane]);
  }
  // The ingest may be gone when this returns; the call goes at the end of its own last callback.
  CHECK(context_.threads->TryRun([this, lane, index, response = std::move(response)] {
    SetOutcome(index, Keep(index, response));
    Next(lane);
  })) << "too few places in the queue";
}

Ingest::Outcome Ingest::Keep(size_t index,
                             const absl::StatusOr<v1::PrefillChunkResponse>& response) {
  if (!response.ok()) return WorkerError(response.status());
  if (response->rejected_pieces() > 0 || response->piece_keys().empty()) {
    return WithParameter(absl::ResourceExhaustedError(absl::StrCat(
                             "the cache had no room for ", response->rejected_pieces(),
                             " of the text's ", response->piece_keys_size(), " pieces")),
                         {}, "cache_full");
  }
  const ChatDocument& text = request_.texts[index];
  chunks::v1::ChunkRecord record;
  record.set_chunk_key(response->chunk_key());
  record.set_title(text.title);
  record.set_text(text.text);
  record.set_segment_text(ChunkText(*context_.text, text));
  record.set_tokens(response->tokens());
  *record.mutable_piece_keys() = response->piece_keys();
  record.set_bytes(response->bytes());
  record.set_created(absl::ToUnixSeconds(absl::Now()));
  record.set_model(model_->name());
  record.set_fingerprint(model_->fingerprint());
  RETURN_IF_ERROR(records_.Put(request_.cache_salt, &record));
  Stored stored;
  stored.id = ChunkId(record.chunk_key());
  stored.tokens = record.tokens();
  stored.bytes = record.bytes();
  stored.cached_tokens = response->cached_tokens();
  stored.created = record.created();
  PinAndFlush(record, &stored);
  return stored;
}

void Ingest::PinAndFlush(const chunks::v1::ChunkRecord& record, Stored* stored) {
  const CacheCalls::Keys keys = KeysOf(record);
  if (request_.ttl) {
    const absl::StatusOr<absl::Time> until = PinKeys(*context_.cache, keys, *request_.ttl);
    if (until.ok()) stored->pinned_until = *until;
    stored->pin = until.status();
  }
  const absl::StatusOr<size_t> not_durable = context_.cache->Flush(keys);
  stored->durable = not_durable.ok() && *not_durable == 0;
}

void Ingest::SetOutcome(size_t index, Outcome outcome) {
  if (outcome.ok()) {
    ++context_.totals->stored;
    context_.totals->tokens += outcome->tokens;
    context_.totals->cached_tokens += outcome->cached_tokens;
    if (context_.charge) context_.charge(caller_, outcome->tokens);
  } else if (!absl::IsCancelled(outcome.status())) {
    ++context_.totals->failed;
  }
  absl::MutexLock lock(&mutex_);
  outcomes_[index] = std::move(outcome);
  ++done_;
  if (!request_.stream || cancelled_) return;
  json::object progress;
  progress["object"] = "chunk.progress";
  progress["done"] = done_;
  progress["total"] = outcomes_.size();
  progress["chunk"] = Shown(index, /*whole=*/true);
  if (!reply_->Write(EventOf(progress))) StopLanes();
}

void Ingest::EndLane() {
  bool cancelled = false;
  {
    absl::MutexLock lock(&mutex_);
    if (--open_lanes_ > 0) return;
    Log();
    cancelled = cancelled_;
  }
  // The last lane: nobody else touches anything any more, but for Cancel.
  if (!request_.stream) {
    reply_->Send(cancelled ? ErrorResponse(absl::CancelledError("the client has left")) : Answer());
    return;
  }
  if (!cancelled) {
    std::string last;
    {
      absl::MutexLock lock(&mutex_);
      last = EventOf(List(/*whole=*/false));
    }
    last += kDone;
    reply_->Write(std::move(last));
  }
  reply_->Finish();
}

http::Response Ingest::Answer() {
  absl::MutexLock lock(&mutex_);
  const absl::Status common = CommonError();
  if (!common.ok()) return ErrorResponse(common);
  http::Response response;
  response.body = json::serialize(List(/*whole=*/true));
  return response;
}

absl::Status Ingest::CommonError() const {
  for (const std::optional<Outcome>& outcome : outcomes_) {
    if (outcome->ok() || outcome->status().code() != outcomes_[0]->status().code()) {
      return absl::OkStatus();
    }
  }
  return outcomes_[0]->status();
}

json::object Ingest::Shown(size_t index, bool whole) const {
  const Outcome& outcome = *outcomes_[index];
  json::object object;
  object["object"] = "chunk";
  object["index"] = index;
  if (!outcome.ok()) {
    object["id"] = nullptr;
    object["error"] = ErrorObject(outcome.status())["error"];
    return object;
  }
  object["id"] = json::string_view(outcome->id);
  object["tokens"] = outcome->tokens;
  object["cached_tokens"] = outcome->cached_tokens;
  if (!whole) return object;
  object["title"] = TitleOrNull(request_.texts[index].title);
  object["bytes"] = outcome->bytes;
  object["created"] = outcome->created;
  object["durable"] = outcome->durable;
  object["pinned_until"] = PinnedUntilOrNull(outcome->pinned_until);
  if (!outcome->pin.ok()) object["pin_error"] = ErrorObject(outcome->pin)["error"];
  return object;
}

json::object Ingest::List(bool whole) const {
  json::array chunks;
  uint64_t tokens = 0;
  uint64_t cached = 0;
  size_t failed = 0;
  for (size_t i = 0; i < outcomes_.size(); ++i) {
    chunks.push_back(Shown(i, whole));
    if (outcomes_[i]->ok()) {
      tokens += (*outcomes_[i])->tokens;
      cached += (*outcomes_[i])->cached_tokens;
    } else {
      ++failed;
    }
  }
  json::object list;
  list["object"] = "list";
  list["model"] = model_->name();
  list["done"] = done_;
  list["total"] = outcomes_.size();
  list["failed"] = failed;
  list["data"] = std::move(chunks);
  list["usage"] = {{"prompt_tokens", tokens},
                   {"total_tokens", tokens},
                   {"prompt_tokens_details", {{"cached_tokens", cached}}}};
  return list;
}

void Ingest::Log() const {
  size_t failed = 0;
  uint64_t tokens = 0;
  uint64_t cached = 0;
  for (const std::optional<Outcome>& outcome : outcomes_) {
    if (outcome && outcome->ok()) {
      tokens += (*outcome)->tokens;
      cached += (*outcome)->cached_tokens;
    } else if (outcome) {
      ++failed;
    }
  }
  LOG_EVENT(kInfo, "ingest_done")
      .With("request", request_id_)
      .With("texts", outcomes_.size())
      .With("done", done_)
      .With("failed", failed)
      .With("cancelled", cancelled_)
      .With("tokens", tokens)
      .With("cached_tokens", cached)
      .WithMs("total_ms", absl::Now() - arrived_);
}

}  // namespace tessera::openai
