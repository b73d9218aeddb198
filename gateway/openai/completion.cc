#include "gateway/openai/completion.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "base/status_macros.h"
#include "boost/json/serialize.hpp"
#include "gateway/openai/error.h"
#include "glog/logging.h"

namespace tessera::openai {

namespace v1 = worker::v1;

namespace {

// Of an error's message, which may quote what a client sent.
constexpr size_t kMaxLoggedBytes = 300;

}  // namespace

Completion::Completion(const CompletionContext& context, Endpoint endpoint, std::string request_id,
                       std::string body, http::Reply* reply)
    : context_(context),
      endpoint_(endpoint),
      request_id_(std::move(request_id)),
      reply_(reply),
      body_(std::move(body)) {}

void Completion::Run() {
  const absl::Status status = Start();
  // When the call has started, its last callback may have destroyed this object already.
  if (!status.ok()) Refuse(status);
}

absl::Status Completion::Start() {
  const std::optional<v1::GetModelResponse> model = context_.workers->Model();
  ASSIGN_OR_RETURN(request_, ParseRequest(endpoint_, body_));
  std::string().swap(body_);
  if (!model) {
    return absl::UnavailableError("no worker is ready: the model may still be loading");
  }
  ASSIGN_OR_RETURN(v1::GenerateRequest generate, context_.preparer->Prepare(request_, *model));
  generate.set_request_id(request_id_);
  end_token_ids_ = request_.stop_token_ids;
  if (!request_.ignore_eos) {
    end_token_ids_.insert(end_token_ids_.end(), model->eos_token_ids().begin(),
                          model->eos_token_ids().end());
  }
  builder_.emplace(endpoint_, request_id_, model->name(), absl::ToUnixSeconds(arrived_),
                   request_.include_usage);
  decoder_.emplace(context_.tokenizer, request_.stop, request_.skip_special_tokens);

  // A callback that comes before call_ is set waits for this lock where it needs the call.
  absl::MutexLock lock(&mutex_);
  if (cancelled_) return absl::CancelledError("the client left before its request was started");
  ASSIGN_OR_RETURN(
      call_, context_.workers->Generate(std::move(generate), arrived_ + context_.timeout, this));
  return absl::OkStatus();
}

void Completion::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  if (call_ != nullptr) call_->Cancel();
}

void Completion::CancelCall() {
  absl::MutexLock lock(&mutex_);
  call_->Cancel();
}

void Completion::Refuse(const absl::Status& status) {
  Log(status);
  http::Response response = ErrorResponse(status);
  response.headers.emplace_back("X-Request-Id", request_id_);
  reply_->Send(std::move(response));
}

void Completion::OnEvent(const v1::GenerateResponse& event) {
  // What was on its way when the call was cancelled.
  if (decoder_->stopped() || lost_client_) return;
  switch (event.event_case()) {
    case v1::GenerateResponse::kStarted:
      OnStarted(event.started());
      break;
    case v1::GenerateResponse::kToken:
      OnToken(event.token().id());
      break;
    case v1::GenerateResponse::kFinished:
      finished_ = event.finished();
      break;
    case v1::GenerateResponse::kPromptLogprobs:
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;
  }
  if (decoder_->stopped() || lost_client_) CancelCall();
}

void Completion::OnStarted(const v1::Started& started) {
  if (started_) return;
  started_ = started;
  if (!request_.stream) return;
  reply_->StartEvents({{"X-Request-Id", request_id_}, {"X-Accel-Buffering", "no"}});
  std::string first = builder_->First();
  if (!first.empty()) lost_client_ = !reply_->Write(std::move(first));
}

bool Completion::Ends(uint32_t id) const {
  return std::find(end_token_ids_.begin(), end_token_ids_.end(), id) != end_token_ids_.end();
}

void Completion::OnToken(uint32_t id) {
  if (!started_) return;  // against the protocol; Outcome says so
  if (completion_tokens_++ == 0) first_token_ = absl::Now();
  if (Ends(id)) return;
  std::string text = decoder_->Feed(id);
  if (!request_.stream) {
    text_ += text;
  } else if (!text.empty()) {
    lost_client_ = !reply_->Write(builder_->Text(text));
  }
}

absl::Status Completion::Outcome(absl::Status status) const {
  if (lost_client_) return absl::CancelledError("the client reads too slowly, or has left");
  if (started_ && decoder_->stopped()) return absl::OkStatus();
  if (!status.ok()) return status;
  if (!started_ || !finished_) return absl::InternalError("the worker ended the answer early");
  return absl::OkStatus();
}

void Completion::OnDone(absl::Status status) {
  {
    // Start may still hold the lock, storing the call that has ended already.
    absl::MutexLock lock(&mutex_);
  }
  const absl::Status outcome = Outcome(std::move(status));
  if (!outcome.ok() && !(request_.stream && started_)) return Refuse(outcome);
  if (request_.stream) return FinishStream(outcome);
  Log(outcome);
  text_ += decoder_->Finish();
  const bool length = !decoder_->stopped() && finished_->reason() == v1::Finished::LENGTH;
  http::Response response;
  response.headers.emplace_back("X-Request-Id", request_id_);
  response.body = builder_->Whole(text_, length ? "length" : "stop", *started_, completion_tokens_);
  reply_->Send(std::move(response));
}

void Completion::FinishStream(const absl::Status& outcome) {
  Log(outcome);
  std::string tail;
  if (outcome.ok()) {
    const bool length = !decoder_->stopped() && finished_->reason() == v1::Finished::LENGTH;
    tail = builder_->Last(decoder_->Finish(), length ? "length" : "stop");
    if (request_.include_usage) tail += builder_->Usage(*started_, completion_tokens_);
  } else {
    tail = Event(boost::json::serialize(ErrorObject(outcome)));
  }
  tail += kDoneEvent;
  reply_->Write(std::move(tail));
  reply_->Finish();
}

void Completion::Log(const absl::Status& outcome) const {
  const absl::Time now = absl::Now();
  const v1::PromptUsage usage = started_ ? started_->usage() : v1::PromptUsage();
  LOG(INFO) << "event=request request_id=" << request_id_
            << " endpoint=" << (endpoint_ == Endpoint::kChat ? "chat" : "completions")
            << " status=" << HttpStatus(outcome) << " stream=" << request_.stream
            << " exact=" << usage.exact_tokens() << " blended=" << usage.blended_tokens()
            << " recomputed=" << usage.recomputed_tokens()
            << " computed=" << usage.computed_tokens() << " completion=" << completion_tokens_
            << " ttft_ms="
            << (completion_tokens_ > 0 ? absl::ToInt64Milliseconds(first_token_ - arrived_) : -1)
            << " total_ms=" << absl::ToInt64Milliseconds(now - arrived_) << " error=\""
            << absl::CHexEscape(outcome.message().substr(0, kMaxLoggedBytes)) << "\"";
}

}  // namespace tessera::openai
