#include "gateway/openai/completion.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "boost/json/serialize.hpp"
#include "gateway/openai/completion_log.h"
#include "gateway/openai/error.h"

namespace tessera::openai {

namespace v1 = worker::v1;

namespace {

// Of answers that are sent whole, with their logprobs.
constexpr size_t kMaxHeldBytes = 256 << 20;
// One token's logprobs in JSON are about so long.
constexpr size_t kScoreBytes = 100;
// Of the events of one piece: a connection takes only so much at a time.
constexpr size_t kMaxEventBytes = 128 << 10;

http::Headers StreamHeaders() { return {{"X-Accel-Buffering", "no"}}; }

size_t HeldBytes(const AnswerDelta& delta) {
  size_t bytes = delta.text.size();
  for (const ScoredToken& token : delta.tokens) bytes += kScoreBytes * (1 + token.top.size());
  return bytes;
}

PromptPlan PlanOf(const ApiRequest& request, PreparedPrompt* prompt) {
  PromptPlan plan;
  plan.answers = request.n;
  plan.scored = prompt->generate.has_prompt_logprobs();
  plan.only_echo = request.max_tokens == 0u;
  if (request.echo) plan.echo = std::move(prompt->echo);
  if (plan.scored || request.return_token_ids) {
    for (const v1::Segment& segment : prompt->generate.segments()) {
      plan.token_ids.insert(plan.token_ids.end(), segment.token_ids().begin(),
                            segment.token_ids().end());
    }
  }
  return plan;
}

AnswerOptions OptionsOf(const ApiRequest& request, const v1::GetModelResponse& model,
                        const Tokenizer* tokenizer) {
  AnswerOptions options;
  options.tokenizer = tokenizer;
  options.stop = request.stop;
  options.include_stop = request.include_stop;
  options.skip_special = request.skip_special_tokens;
  options.min_tokens = request.sampling.min_tokens();
  options.stop_token_ids = request.stop_token_ids;
  if (!request.ignore_eos) {
    options.eos_token_ids.assign(model.eos_token_ids().begin(), model.eos_token_ids().end());
  }
  options.keep_tokens = request.logprobs || request.return_token_ids;
  return options;
}

}  // namespace

// One prompt's call. All of it but the callbacks themselves is guarded by the completion's lock.
class Completion::PromptCall final : public GenerateListener {
 public:
  PromptCall(Completion* completion, size_t first_choice, const AnswerOptions* options,
             PromptPlan plan)
      : answers(options, std::move(plan)),
        last_tokens(answers.plan().answers, absl::InfinitePast()),
        first_choice(first_choice),
        completion_(completion) {}

  void OnEvent(const v1::GenerateResponse& event) override { completion_->OnEvent(*this, event); }
  void OnDone(absl::Status status) override { completion_->OnDone(*this, std::move(status)); }

  PromptAnswers answers;
  std::vector<absl::Time> last_tokens;  // by answer
  bool reported = false;                // its stream has said how the prompt's KV came about
  const size_t first_choice;            // index of its first answer among the request's
  std::unique_ptr<WorkerCall> call;

 private:
  Completion* const completion_;
};

Completion::Completion(const CompletionContext& context, Endpoint endpoint, http::Request request,
                       std::string request_id, size_t caller, http::Reply* reply)
    : context_(context),
      endpoint_(endpoint),
      request_id_(std::move(request_id)),
      caller_(caller),
      reply_(reply),
      http_request_(std::move(request)) {
  if (context_.observer != nullptr) context_.observer->OnAccepted();
}

Completion::~Completion() = default;

void Completion::Run() {
  const absl::Status status = Start();
  // When calls have started, the last of their callbacks may have destroyed this object already.
  if (!status.ok()) Refuse(status);
}

absl::Status Completion::Start() {
  http::Request http_request;
  {
    absl::MutexLock lock(&mutex_);
    http_request = std::move(http_request_);
  }
  // What may take long is done without the lock, which the network takes for Cancel.
  const std::optional<v1::GetModelResponse> model = context_.workers->Model();
  ASSIGN_OR_RETURN(ApiRequest request,
                   ParseRequest(endpoint_, http_request, {.max_prompts = context_.max_prompts},
                                context_.chunk_texts));
  http_request = {};
  if (!model) {
    return absl::UnavailableError("no worker is ready: the model may still be loading");
  }
  ASSIGN_OR_RETURN(std::vector<PreparedPrompt> prompts,
                   context_.preparer->Prepare(request, *model));
  request.prompts.clear();

  // A callback that comes while this starts other calls waits for the lock.
  absl::MutexLock lock(&mutex_);
  request_ = std::move(request);
  if (cancelled_) return absl::CancelledError("the client left before its request was started");
  SetUp(*model, &prompts);
  return StartCalls(std::move(prompts));
}

void Completion::SetUp(const v1::GetModelResponse& model, std::vector<PreparedPrompt>* prompts) {
  answer_options_ = OptionsOf(request_, model, context_.tokenizer);
  ResponseOptions options;
  options.endpoint = endpoint_;
  options.request_id = request_id_;
  options.model = model.name();
  model_ = model.name();
  options.created = absl::ToUnixSeconds(arrived_);
  options.include_usage = request_.include_usage;
  options.continuous_usage = request_.continuous_usage;
  options.logprobs = request_.logprobs.has_value();
  options.token_ids = request_.return_token_ids;
  options.report_rows = request_.blend.report_rows();
  options.tokenizer = context_.tokenizer;
  builder_.emplace(std::move(options));
  for (PreparedPrompt& prompt : *prompts) {
    const size_t first_choice = calls_.size() * request_.n;
    calls_.push_back(std::make_unique<PromptCall>(this, first_choice, &answer_options_,
                                                  PlanOf(request_, &prompt)));
  }
  if (!request_.stream) wholes_.resize(calls_.size() * request_.n);
}

// OK when at least one call runs: the last one to end then answers, whatever happened.
absl::Status Completion::StartCalls(std::vector<PreparedPrompt> prompts) {
  if (request_.stream) {
    reply_->PromiseEvents(StreamHeaders(), context_.first_event_within);
  }
  for (size_t i = 0; i < prompts.size(); ++i) {
    v1::GenerateRequest& generate = prompts[i].generate;
    generate.set_request_id(prompts.size() == 1 ? request_id_ : absl::StrCat(request_id_, "-", i));
    absl::StatusOr<std::unique_ptr<WorkerCall>> call = context_.workers->Generate(
        std::move(generate), arrived_ + context_.timeout, calls_[i].get());
    if (!call.ok() && running_ == 0) return call.status();
    if (!call.ok()) {
      Fail(call.status());
      break;
    }
    calls_[i]->call = *std::move(call);
    ++running_;
  }
  return absl::OkStatus();
}

void Completion::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  CancelCalls();
}

void Completion::CancelCalls() {
  for (const std::unique_ptr<PromptCall>& call : calls_) {
    if (call->call != nullptr) call->call->Cancel();
  }
}

void Completion::Fail(absl::Status status) {
  if (!failure_.ok()) return;
  failure_ = std::move(status);
  CancelCalls();
}

void Completion::Refuse(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    Report(status);
  }
  reply_->Send(ErrorResponse(status));
}

void Completion::OnEvent(PromptCall& call, const v1::GenerateResponse& event) {
  absl::MutexLock lock(&mutex_);
  // What was on its way when the call was cancelled.
  if (!failure_.ok() || call.answers.ended()) return;
  if (event.has_token()) Observe(call, event.token());
  absl::StatusOr<std::vector<PromptAnswers::Piece>> pieces = call.answers.Take(event);
  if (!pieces.ok()) return Fail(pieces.status());
  Deliver(call, *std::move(pieces));
  if (call.answers.wasteful()) call.call->Cancel();
}

void Completion::Observe(PromptCall& call, const v1::Token& token) {
  const bool counts = token.index() < call.last_tokens.size() && !call.answers.plan().only_echo &&
                      !call.answers.answers()[token.index()].ended();
  if (!counts) return;
  const absl::Time now = absl::Now();
  first_token_ = std::min(first_token_, now);
  absl::Time& last = call.last_tokens[token.index()];
  if (context_.observer != nullptr && last != absl::InfinitePast()) {
    context_.observer->OnNextToken(endpoint_, now - last);
  }
  last = now;
}

void Completion::Deliver(PromptCall& call, std::vector<PromptAnswers::Piece> pieces) {
  if (pieces.empty()) return;
  std::string events;
  for (PromptAnswers::Piece& piece : pieces) {
    if (request_.stream) {
      events += EventsOf(call, piece);
    } else {
      Gather(call.first_choice + piece.answer, std::move(piece));
    }
  }
  if (held_bytes_ > kMaxHeldBytes) {
    return Fail(absl::OutOfRangeError(
        "the answers are too long to be sent whole: set stream to true, or ask for fewer or "
        "shorter ones, or for fewer logprobs"));
  }
  if (!request_.stream) return;
  if (events.size() > kMaxEventBytes) {
    return Fail(absl::OutOfRangeError(
        "the echoed prompt with its logprobs is too long to be streamed: set stream to false"));
  }
  BeginStream();
  if (!events.empty() && !reply_->Write(std::move(events))) {
    Fail(absl::CancelledError("the client reads too slowly, or has left"));
  }
}

void Completion::BeginStream() {
  if (stream_begun_) return;
  stream_begun_ = true;
  reply_->StartEvents(StreamHeaders());
}

void Completion::Gather(size_t choice, PromptAnswers::Piece piece) {
  held_bytes_ += HeldBytes(piece.delta);
  Whole& whole = wholes_[choice];
  whole.text += piece.delta.text;
  if (piece.first) whole.echo_tokens = piece.delta.tokens.size();
  std::move(piece.delta.tokens.begin(), piece.delta.tokens.end(), std::back_inserter(whole.tokens));
}

std::string Completion::EventsOf(PromptCall& call, const PromptAnswers::Piece& piece) const {
  // A completion without an echo begins with its first text.
  const bool chat = endpoint_ == Endpoint::kChat, token_ids = request_.return_token_ids;
  if (piece.first && piece.delta.empty() && !chat && !token_ids) return "";
  ChoicePart part;
  part.index = static_cast<uint32_t>(call.first_choice + piece.answer);
  part.text = piece.delta.text;
  part.tokens = piece.delta.tokens;
  if (!std::exchange(call.reported, true)) part.prompt = &*call.answers.started();
  const RequestUsage usage = request_.continuous_usage ? UsageSoFar() : RequestUsage();
  if (piece.first) {
    part.echo_tokens = piece.delta.tokens.size();
    if (token_ids) part.prompt_token_ids = &call.answers.plan().token_ids;
    return chat ? builder_->First(part, usage) : builder_->Part(part, usage);
  }
  const Answer& answer = call.answers.answers()[piece.answer];
  if (answer.ended()) part.ended = &answer;
  return builder_->Part(part, usage);
}

RequestUsage Completion::UsageSoFar() const {
  RequestUsage usage;
  for (const std::unique_ptr<PromptCall>& call : calls_) {
    if (call->answers.started()) usage.prompts.push_back(&*call->answers.started());
    usage.completion_tokens += call->answers.token_count();
  }
  return usage;
}

void Completion::OnDone(PromptCall& call, absl::Status status) {
  LastWords words;
  {
    absl::MutexLock lock(&mutex_);
    if (!call.answers.ended()) {
      if (status.ok()) status = absl::InternalError("the worker ended the answer early");
      Fail(std::move(status));
    }
    if (--running_ > 0) return;
    words = Conclude();
  }
  // Nothing of this object may be touched behind the last call.
  http::Reply* const reply = reply_;
  if (words.response) return reply->Send(*std::move(words.response));
  reply->Write(std::move(words.tail));
  reply->Finish();
}

Completion::LastWords Completion::Conclude() {
  Report(failure_);
  LastWords words;
  if (stream_begun_) {
    if (!failure_.ok()) {
      words.tail = Event(boost::json::serialize(ErrorObject(failure_)));
    } else if (request_.include_usage) {
      words.tail = builder_->Usage(UsageSoFar());
    }
    words.tail += kDoneEvent;
    return words;
  }
  if (failure_.ok()) {
    words.response.emplace();
    words.response->body = WholeBody();
  } else {
    words.response = ErrorResponse(failure_);
  }
  return words;
}

std::string Completion::WholeBody() const {
  std::vector<ChoicePart> parts;
  for (const std::unique_ptr<PromptCall>& call : calls_) {
    for (const Answer& answer : call->answers.answers()) {
      const Whole& whole = wholes_[parts.size()];
      ChoicePart part;
      part.index = static_cast<uint32_t>(parts.size());
      part.text = whole.text;
      part.tokens = whole.tokens;
      part.echo_tokens = whole.echo_tokens;
      part.ended = &answer;
      if (request_.return_token_ids) part.prompt_token_ids = &call->answers.plan().token_ids;
      parts.push_back(part);
    }
  }
  return builder_->Whole(parts, UsageSoFar());
}

CompletionReport Completion::MakeReport(const absl::Status& outcome) const {
  const RequestUsage usage = UsageSoFar();
  CompletionReport report;
  report.endpoint = endpoint_;
  report.caller = caller_;
  report.http_status = stream_begun_ ? 200 : HttpStatus(outcome);
  report.outcome = outcome.code();
  report.usage = SumUsage(usage);
  report.completion_tokens = static_cast<uint32_t>(usage.completion_tokens);
  report.streamed = request_.stream;
  report.ttft = first_token_ - arrived_;
  report.total = absl::Now() - arrived_;
  for (const v1::Started* const prompt : usage.prompts) {
    report.queued = std::max(report.queued, absl::Microseconds(prompt->queue_us()));
    report.prefill = std::max(report.prefill, absl::Microseconds(prompt->prefill_us()));
  }
  for (const std::unique_ptr<PromptCall>& call : calls_) {
    for (const Answer& answer : call->answers.answers()) {
      report.finish_reasons.push_back(answer.ended() ? answer.finish_reason() : "abort");
    }
  }
  return report;
}

std::string Completion::Workers() const {
  absl::btree_set<std::string> workers;
  for (const std::unique_ptr<PromptCall>& call : calls_) {
    if (call->call != nullptr) workers.insert(call->call->worker());
  }
  return absl::StrJoin(workers, ",");
}

void Completion::Report(const absl::Status& outcome) {
  const CompletionReport report = MakeReport(outcome);
  LogCompletion(
      report, outcome,
      {.id = request_id_, .model = model_, .workers = Workers(), .prompts = calls_.size()});
  if (context_.observer != nullptr) context_.observer->OnFinished(report);
}

}  // namespace tessera::openai
