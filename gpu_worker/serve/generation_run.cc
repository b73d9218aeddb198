#include "gpu_worker/serve/generation_run.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"

namespace tessera {

GenerationRun::GenerationRun(std::unique_ptr<Generation> generation, const RunParts& parts)
    : generation_(std::move(generation)),
      parts_(parts),
      prefix_keys_(generation_->prompt_logprobs ? std::vector<ChunkKey>()
                                                : parts.blender->PrefixKeys(generation_->prompt)),
      prompt_tokens_(generation_->prompt.Tokens()) {
  // So that a request that runs alone never runs out of blocks.
  const int64_t each = KvPool::BlocksFor(generation_->prompt.max_new_tokens) + 1;
  const int64_t room = parts.pool->blocks() - KvPool::BlocksFor(prompt_tokens_);
  answers_at_a_time_ = std::clamp<int64_t>(room / each, 1, kMostAnswersAtATime);
}

int64_t GenerationRun::BlocksToStart() const {
  // The next row's block too, so that it does not stop at its first token.
  int64_t blocks =
      KvPool::BlocksFor(prompt_tokens_ + 1) - parts_.prefixes->BusyBlocks(prefix_keys_);
  for (const Answer& answer : answers_) {
    blocks += KvPool::BlocksFor(static_cast<int64_t>(answer.tokens.size()));
  }
  return blocks;
}

bool GenerationRun::Grow(int64_t slots, KvMemory& kv) {
  const int64_t more = KvPool::BlocksFor(slots) - static_cast<int64_t>(kv.blocks().size());
  if (more > 0) parts_.prefixes->MakeRoom(more);
  return kv.Grow(slots);
}

bool GenerationRun::Start() {
  PromptMemory memory{KvMemory(parts_.pool)};
  memory.resident_tokens =
      parts_.prefixes->Share(prefix_keys_, &memory.kv) * parts_.blender->config().tokens_per_piece;
  if (!Grow(prompt_tokens_, memory.kv)) return false;
  if (preemptions_ == 0) started_ = absl::Now();
  prefill_steps_.emplace(parts_.blender->Prefilling(generation_->prompt, std::move(memory),
                                                    *generation_->cancelled, MakeScorer()));
  stage_ = Stage::kPrefilling;
  computed_ = absl::ZeroDuration();
  waits_ = false;
  is_new_ = true;
  return true;
}

Decoder::OnRows GenerationRun::MakeScorer() {
  if (!generation_->prompt_logprobs) return nullptr;
  if (scorer_ == nullptr) {
    scorer_ = std::make_unique<PromptScorer>(parts_.decoder, generation_->prompt.Ids(),
                                             *generation_->prompt_logprobs,
                                             [this](const std::vector<PromptLogprob>& positions) {
                                               generation_->listener->OnPromptLogprobs(positions);
                                             });
  }
  return [this](int64_t first, Matrix h) {
    // After a preemption the same rows come again.
    if (first < scored_rows_) return absl::OkStatus();
    scored_rows_ = first + h.rows;
    return scorer_->OnRows(first, h, generation_->cancelled->value());
  };
}

StepState GenerationRun::StepPrefill() {
  is_new_ = false;
  const absl::Time start = absl::Now();
  if (waits_) loaded_ += start - last_step_;
  const absl::Duration waited = parts_.blender->waited();
  const StepState state = prefill_steps_->Step();
  const absl::Duration held_up = parts_.blender->waited() - waited;
  last_step_ = absl::Now();
  waits_ = state == StepState::kWaiting;
  loaded_ += held_up;
  computed_ += last_step_ - start - held_up;
  if (state != StepState::kDone) return state;
  absl::StatusOr<Prefilled> prefilled = prefill_steps_->TakeResult();
  prefill_steps_.reset();
  if (prefilled.ok()) {
    OnPrefilled(*std::move(prefilled));
  } else {
    EndIfUnwanted();  // says why
    if (!ended_) End(prefilled.status());
  }
  return state;
}

void GenerationRun::OnPrefilled(Prefilled prefilled) {
  stage_ = Stage::kDecoding;
  if (generation_->prompt.store) parts_.prefixes->Add(prefix_keys_, prefilled.kv);
  prompt_kv_ = std::move(prefilled.kv);
  if (was_started_) return;  // its answers go on from where they were
  was_started_ = true;
  // Scoring the prompt's rows is no part of what a prefill costs.
  if (scorer_ == nullptr) parts_.blender->Learn(generation_->prompt, computed_, &prefilled);
  // After a preemption it must give the same bits.
  generation_->prompt.choose = false;
  generation_->prompt.exact = !prefilled.blended;
  prefill_ = absl::Now() - started_;
  blended_ = prefilled.blended;
  counts_ = CountTokens(prefilled.segments);
  wants_chunks_ = prefilled.wants_chunks;
  generation_->listener->OnStarted(prefilled, started_ - generation_->submitted, prefill_);
  prompt_logits_ = std::move(prefilled.logits);
  BeginAnswers();
  // After the first token, never before.
  parts_.writer->Write(std::move(prefilled.fresh), generation_->request_id);
}

std::vector<std::unique_ptr<ChunkWork>> GenerationRun::TakeChunksAhead() {
  std::vector<std::unique_ptr<ChunkWork>> all;
  if (!std::exchange(wants_chunks_, false)) return all;
  const BlendRequest& prompt = generation_->prompt;
  for (size_t i = 1; i + 1 < prompt.segments.size(); ++i) {
    auto work = std::make_unique<ChunkWork>();
    work->request_id = generation_->request_id;
    work->tokens = prompt.segments[i];
    work->salt = prompt.salt;
    work->cancelled = std::make_shared<CancelFlag>();
    work->done = [](const absl::StatusOr<ChunkReport>&) {};  // nobody waits for it
    all.push_back(std::move(work));
  }
  return all;
}

void GenerationRun::BeginAnswers() {
  while (!ended_ && static_cast<int64_t>(answers_.size()) < answers_at_a_time_ &&
         next_answer_ < generation_->answers) {
    EndIfUnwanted();
    if (ended_) return;
    SamplingParams params = generation_->sampling;
    params.seed += next_answer_;
    answers_.push_back(
        {next_answer_, Sampler(params, generation_->prompt.segments), {}, 0, KvMemory()});
    ++next_answer_;
    if (!Sample(LogitsRow(prompt_logits_), answers_.back())) answers_.pop_back();
  }
  if (answers_.empty() && !ended_) End(absl::OkStatus());
}

bool GenerationRun::Sample(const LogitsRow& logits, Answer& answer) {
  const SampledToken token = answer.sampler.Next(logits);
  answer.tokens.push_back(token.id);
  ++tokens_;
  const auto drawn = static_cast<int64_t>(answer.tokens.size());
  generation_->listener->OnToken(answer.index, token);
  const std::vector<uint32_t>& ends = generation_->end_tokens;
  const bool at_end = std::find(ends.begin(), ends.end(), token.id) != ends.end();
  if (!at_end && drawn < generation_->prompt.max_new_tokens) return true;
  generation_->listener->OnAnswered(answer.index, at_end, drawn);
  return false;
}

int64_t GenerationRun::RowsOf(const Answer& answer) const {
  return std::min(static_cast<int64_t>(answer.tokens.size()) - answer.in_kv, kMostRowsAgain);
}

int64_t GenerationRun::BlocksToDecode() const {
  int64_t blocks = 0;
  for (const Answer& answer : answers_) {
    int64_t slots = answer.kv.capacity();
    if (slots == 0) {
      // A single answer takes the prompt's own memory; others copy its last block.
      slots = prompt_kv_.capacity();
      if (generation_->answers > 1 && prompt_tokens_ % KvPool::kBlockSlots > 0) ++blocks;
    }
    const int64_t wanted = prompt_tokens_ + answer.in_kv + RowsOf(answer);
    blocks += std::max<int64_t>(0, KvPool::BlocksFor(wanted) - KvPool::BlocksFor(slots));
  }
  return blocks;
}

bool GenerationRun::MakeRoomFor(Answer& answer) {
  if (answer.kv.capacity() == 0) {
    if (generation_->answers == 1) {
      answer.kv = std::move(prompt_kv_);
    } else {
      parts_.prefixes->MakeRoom(1);
      if (!prompt_kv_.Fork(prompt_tokens_, &answer.kv)) return false;
    }
  }
  return Grow(prompt_tokens_ + answer.in_kv + RowsOf(answer), answer.kv);
}

bool GenerationRun::AddRows(std::vector<DecodeRow>* rows) {
  for (Answer& answer : answers_) {
    if (!MakeRoomFor(answer)) return false;
  }
  for (const Answer& answer : answers_) {
    const auto last = static_cast<int64_t>(answer.tokens.size()) - 1;
    for (int64_t i = answer.in_kv; i < answer.in_kv + RowsOf(answer); ++i) {
      rows->push_back({&answer.kv, answer.tokens[i], prompt_tokens_ + i, i == last,
                       generation_->sampling.temperature});
    }
  }
  return true;
}

void GenerationRun::Advance(const DecodedLogits& logits, int64_t* row) {
  for (auto answer = answers_.begin(); answer != answers_.end();) {
    answer->in_kv += RowsOf(*answer);
    if (answer->in_kv < static_cast<int64_t>(answer->tokens.size())) {
      ++answer;
      continue;
    }
    const LogitsRow of_answer = logits.Row((*row)++);
    const bool goes_on = ended_ || Sample(of_answer, *answer);
    answer = goes_on ? std::next(answer) : answers_.erase(answer);
    EndIfUnwanted();
  }
  if (!ended_) BeginAnswers();
}

int64_t GenerationRun::BlocksHeld() const {
  int64_t blocks = 0;
  auto count = [&](const KvMemory& kv, int most_references) {
    for (const int32_t block : kv.blocks()) {
      if (parts_.pool->references(block) <= most_references) ++blocks;
    }
  };
  for (const Answer& answer : answers_) count(answer.kv, 1);
  count(prompt_kv_, 1 + static_cast<int>(answers_.size()));
  if (stage_ == Stage::kPrefilling) blocks += KvPool::BlocksFor(prompt_tokens_);
  return blocks;
}

void GenerationRun::Preempt() {
  prefill_steps_.reset();
  prompt_kv_ = KvMemory();
  for (Answer& answer : answers_) {
    answer.kv = KvMemory();
    answer.in_kv = 0;
  }
  stage_ = Stage::kWaiting;
  ++preemptions_;
}

void GenerationRun::EndIfUnwanted() {
  if (ended_) return;
  if (*parts_.stopping) {
    End(absl::UnavailableError("the worker is shutting down"));
  } else if (generation_->cancelled->IsSet()) {
    End(absl::CancelledError("the request was cancelled"));
  }
}

void GenerationRun::End(const absl::Status& status) {
  ended_ = true;
  const absl::Time now = absl::Now();
  const absl::Time started = stage_ == Stage::kWaiting && preemptions_ == 0 ? now : started_;
  LOG_EVENT(kInfo, "generate_done")
      .With("request", generation_->request_id)
      .With("mode", !was_started_ ? "none"
                    : blended_    ? "blend"
                                  : "full")
      .With("policy", blended_ ? generation_->prompt.policy.name() : "exact")
      .With("prompt_tokens", prompt_tokens_)
      .With("exact_tokens", counts_.exact)
      .With("blended_tokens", counts_.blended)
      .With("recomputed_tokens", counts_.recomputed)
      .With("computed_tokens", counts_.computed)
      .With("answers", generation_->answers)
      .With("decode_tokens", tokens_)
      .With("preemptions", preemptions_)
      .WithMs("queue_ms", started - generation_->submitted)
      .WithMs("load_ms", loaded_)
      .WithMs("prefill_ms", prefill_)
      .WithMs("total_ms", now - generation_->submitted)
      .WithError(status);
  generation_->listener->OnFinished(status);
}

}  // namespace tessera
