// What a request may ask of its answers: several of them, logprobs, modes, penalties.
#include <cmath>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gpu_worker/all_rows.h"
#include "tests/gpu_worker/serve/worker_fixture.h"

namespace tessera {
namespace {

using worker::v1::SegmentReport;

class GenerationTest : public WorkerFixture {
 protected:
  // Logits of every row of a prompt, by another way than the worker's.
  Activations LogitsOf(const std::vector<uint32_t>& ids) {
    return worker_->decoder->Logits(AllRows(*worker_->decoder, ids));
  }

  static double LogprobOf(absl::Span<const float> logits, uint32_t id) {
    double sum = 0;
    for (float x : logits) sum += std::exp(double{x});
    return logits[id] - std::log(sum);
  }

  // A row that is decoded is not rounded for its products; rows of a prefill are, where these are
  // made from bf16.
  double tolerance() const { return worker_->ops->name() == "cpu-bf16" ? 0.03 : 1e-3; }

  static std::vector<uint32_t> Joined(const std::vector<std::vector<uint32_t>>& segments) {
    std::vector<uint32_t> ids;
    for (const auto& segment : segments) ids.insert(ids.end(), segment.begin(), segment.end());
    return ids;
  }
};

TEST_F(GenerationTest, AnswersFromOnePrefillAreThoseOfSeparateRequests) {
  GenerateRequest request = Request({lead_, a_, suffix_}, 12);
  request.mutable_sampling()->set_temperature(1.5);
  request.mutable_sampling()->set_seed(100);
  request.mutable_sampling()->set_frequency_penalty(0.5);
  request.mutable_sampling()->set_repetition_penalty(1.2);
  request.set_n(5);
  const Answer all = Generate(request);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  ASSERT_EQ(all.finishes.size(), 5u);
  std::set<std::vector<uint32_t>> different;
  request.set_n(1);
  for (uint32_t i = 0; i < 5; ++i) {
    request.mutable_sampling()->set_seed(100 + i);
    EXPECT_EQ(all.IdsOf(i), Generate(request).ids) << "answer " << i;
    EXPECT_EQ(all.finishes[i].index(), i);
    EXPECT_EQ(all.finishes[i].generated_tokens(), 12u);
    EXPECT_EQ(all.finishes[i].reason(), worker::v1::Finished::LENGTH);
    different.insert(all.IdsOf(i));
  }
  EXPECT_EQ(different.size(), 5u);
}

TEST_F(GenerationTest, GreedyAnswersAreEqual) {
  GenerateRequest request = Request({lead_, a_, b_, suffix_}, 20);
  const Answer one = Generate(request);
  request.set_n(3);
  const Answer three = Generate(request);
  ASSERT_EQ(three.finishes.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(three.IdsOf(i), one.ids);
}

// The memory holds the prompt and one answer: here exactly all positions that there are.
TEST_F(GenerationTest, AnswersOfFullLengthShareOneMemory) {
  GenerateRequest request = Request({TinyTokens(9, 500)}, 12);
  request.set_n(3);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(3);
  const Answer all = Generate(request);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  request.set_n(1);
  request.mutable_sampling()->set_seed(5);
  EXPECT_EQ(all.IdsOf(2), Generate(request).ids);
}

TEST_F(GenerationTest, EachAnswerEndsByItself) {
  GenerateRequest request = Request({lead_, a_, suffix_}, 30);
  request.set_n(8);
  request.mutable_sampling()->set_temperature(2);
  request.mutable_sampling()->set_seed(1);
  for (uint32_t id = 3; id < 13; ++id) request.add_stop_token_ids(id);
  const Answer all = Generate(request);
  ASSERT_EQ(all.finishes.size(), 8u);
  std::set<size_t> lengths;
  for (const auto& finished : all.finishes) {
    const std::vector<uint32_t> ids = all.IdsOf(finished.index());
    EXPECT_EQ(ids.size(), finished.generated_tokens());
    const bool stopped = ids.back() >= 3 && ids.back() < 13;
    EXPECT_EQ(finished.reason(),
              stopped ? worker::v1::Finished::STOP : worker::v1::Finished::LENGTH);
    lengths.insert(ids.size());
  }
  EXPECT_GT(lengths.size(), 1u);
}

TEST_F(GenerationTest, MinTokensHoldsBackEveryEndToken) {
  GenerateRequest request = Request({lead_, a_, suffix_}, 40);
  request.set_ignore_eos(false);
  for (uint32_t id = 3; id < 50; ++id) request.add_stop_token_ids(id);
  request.mutable_sampling()->set_temperature(3);
  request.mutable_sampling()->set_min_tokens(25);
  for (uint64_t seed = 0; seed < 5; ++seed) {
    request.mutable_sampling()->set_seed(seed);
    const Answer answer = Generate(request);
    EXPECT_GT(answer.ids.size(), 25u);
    for (size_t i = 0; i < 25; ++i) {
      EXPECT_TRUE(answer.ids[i] >= 50 || answer.ids[i] < 2) << answer.ids[i];
    }
  }
}

TEST_F(GenerationTest, BiasForcesAndForbids) {
  GenerateRequest request = Request({lead_, a_, suffix_}, 6);
  (*request.mutable_sampling()->mutable_logit_bias())[77] = 100;
  EXPECT_EQ(Generate(request).ids, std::vector<uint32_t>(6, 77));
  (*request.mutable_sampling()->mutable_logit_bias())[77] = -100;
  for (uint32_t id : Generate(request).ids) EXPECT_NE(id, 77u);
}

TEST_F(GenerationTest, TokensComeWithTheLikeliestBesideThem) {
  GenerateRequest request = Request({lead_, a_, suffix_}, 4);
  request.mutable_blend()->set_mode(worker::v1::OFF);
  request.set_top_logprobs(5);
  (*request.mutable_sampling()->mutable_logit_bias())[77] = 100;  // not what the logprobs are of
  const Answer answer = Generate(request);
  std::vector<uint32_t> ids = Joined({lead_, a_, suffix_});
  const size_t prompt = ids.size();
  ids.insert(ids.end(), answer.ids.begin(), answer.ids.end());
  const Activations logits = LogitsOf(ids);
  for (size_t i = 0; i < answer.tokens.size(); ++i) {
    const auto& token = answer.tokens[i];
    const auto row = absl::MakeConstSpan(logits->Row(prompt + i - 1), logits->cols);
    EXPECT_NEAR(token.logprob(), LogprobOf(row, 77), tolerance());
    ASSERT_EQ(token.top_size(), 5);
    for (int k = 0; k < 5; ++k) {
      EXPECT_NEAR(token.top(k).logprob(), LogprobOf(row, token.top(k).id()), tolerance());
      if (k > 0) {
        EXPECT_GE(token.top(k - 1).logprob(), token.top(k).logprob());
      }
    }
    const uint32_t best = std::max_element(row.begin(), row.end()) - row.begin();
    EXPECT_NEAR(token.top(0).logprob(), LogprobOf(row, best), tolerance());
  }
}

TEST_F(GenerationTest, ForcedTokensAreAnsweredOverAsIfSampled) {
  GenerateRequest request = Request({lead_, a_, b_, suffix_}, 6);
  request.mutable_blend()->set_mode(worker::v1::OFF);
  request.set_top_logprobs(1);
  const std::vector<uint32_t> forced = {77, 5, 5, 60};
  for (uint32_t id : forced) request.add_forced_token_ids(id);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  std::vector<uint32_t> ids = Joined({lead_, a_, b_, suffix_});
  const size_t prompt = ids.size();
  const std::vector<uint32_t> first = answer.ids;
  ASSERT_EQ(first.size(), 6u);
  EXPECT_EQ(std::vector<uint32_t>(first.begin(), first.begin() + 4), forced);
  ids.insert(ids.end(), first.begin(), first.end());
  const Activations logits = LogitsOf(ids);
  for (size_t i = 0; i < 6; ++i) {
    const auto row = absl::MakeConstSpan(logits->Row(prompt + i - 1), logits->cols);
    const uint32_t best = std::max_element(row.begin(), row.end()) - row.begin();
    EXPECT_NEAR(answer.tokens[i].logprob(), LogprobOf(row, first[i]), tolerance()) << i;
    EXPECT_NEAR(LogprobOf(row, answer.tokens[i].top(0).id()), LogprobOf(row, best), tolerance())
        << i;
    if (i >= 4) {
      EXPECT_EQ(first[i], answer.tokens[i].top(0).id()) << i;
    }
  }
  request.set_n(2);
  const Answer two = Generate(request);
  EXPECT_EQ(two.IdsOf(0), first);
  EXPECT_EQ(two.IdsOf(1), first);
}

TEST_F(GenerationTest, AForcedEndTokenEndsTheAnswer) {
  GenerateRequest request = Request({lead_, a_, suffix_}, 6);
  request.set_ignore_eos(false);
  for (uint32_t id : {9, 2, 9}) request.add_forced_token_ids(id);
  const Answer answer = Generate(request);
  EXPECT_EQ(answer.ids, (std::vector<uint32_t>{9, 2}));
  EXPECT_EQ(answer.finished.reason(), worker::v1::Finished::STOP);
}

TEST_F(GenerationTest, PromptLogprobsAreThoseOfEveryRow) {
  const std::vector<uint32_t> ids = Joined({lead_, a_, b_, c_, suffix_});  // more than two blocks
  GenerateRequest request = Request({lead_, a_, b_, c_, suffix_}, 3);
  request.set_prompt_logprobs(2);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_EQ(answer.prompt.size(), ids.size());
  EXPECT_EQ(answer.prompt[0].token().id(), ids[0]);
  EXPECT_EQ(answer.prompt[0].token().logprob(), 0);
  EXPECT_EQ(answer.prompt[0].top_size(), 0);
  const Activations logits = LogitsOf(ids);
  for (size_t i = 1; i < ids.size(); ++i) {
    const auto row = absl::MakeConstSpan(logits->Row(i - 1), logits->cols);
    EXPECT_EQ(answer.prompt[i].token().id(), ids[i]);
    EXPECT_NEAR(answer.prompt[i].token().logprob(), LogprobOf(row, ids[i]), 1e-3) << i;
    ASSERT_EQ(answer.prompt[i].top_size(), 2);
    const uint32_t best = std::max_element(row.begin(), row.end()) - row.begin();
    EXPECT_EQ(answer.prompt[i].top(0).id(), best);
    EXPECT_NEAR(answer.prompt[i].top(0).logprob(), LogprobOf(row, best), 1e-3);
  }
  // Prefilled in full, and answered as such.
  EXPECT_EQ(answer.started.policy(), "exact");
  EXPECT_EQ(answer.started.usage().computed_tokens(), ids.size());
  request.clear_prompt_logprobs();
  request.mutable_blend()->set_mode(worker::v1::EXACT);
  EXPECT_EQ(Generate(request).ids, answer.ids);
  // Without company, and a prompt of one token.
  request = Request({{5}}, 1);
  request.set_prompt_logprobs(0);
  EXPECT_EQ(Generate(request).prompt.size(), 1u);
}

// Longer than the rows that a decoder runs at a time would need a longer model: here the blocks of
// logits are what is crossed, and the row behind each is as right as any.
TEST_F(GenerationTest, PromptLogprobsOfTheLongestPrompt) {
  const std::vector<uint32_t> ids = TinyTokens(4, 511);
  GenerateRequest request = Request({ids}, 1);
  request.set_prompt_logprobs(1);
  const Answer answer = Generate(request);
  ASSERT_EQ(answer.prompt.size(), 511u);
  const Activations logits = LogitsOf(ids);
  for (size_t i = 1; i < ids.size(); ++i) {
    const auto row = absl::MakeConstSpan(logits->Row(i - 1), logits->cols);
    EXPECT_NEAR(answer.prompt[i].token().logprob(), LogprobOf(row, ids[i]), 1e-3) << i;
  }
}

TEST_F(GenerationTest, OffReadsAndStoresNothing) {
  GenerateRequest request = Request({lead_, a_, b_, suffix_});
  request.mutable_blend()->set_mode(worker::v1::OFF);
  const Answer cold = Generate(request);
  EXPECT_EQ(cold.started.policy(), "exact");
  WaitForStores();
  EXPECT_EQ(entries(), 0u);
  Generate(Request({lead_, a_, b_, suffix_}));
  Generate(Request({Joined({lead_, a_, b_, suffix_})}));
  WaitForStores();
  EXPECT_GT(entries(), 0u);
  const Answer again = Generate(request);
  EXPECT_EQ(again.started.usage().computed_tokens(), 104u);
  EXPECT_EQ(again.ids, cold.ids);
}

TEST_F(GenerationTest, ExactReusesWhatAnExactPrefillComputed) {
  GenerateRequest request = Request({lead_, a_, b_, suffix_});
  Generate(request);  // chunks, of which it takes none
  WaitForStores();
  request.mutable_blend()->set_mode(worker::v1::EXACT);
  const Answer cold = Generate(request);
  EXPECT_EQ(cold.started.policy(), "exact");
  EXPECT_EQ(cold.started.usage().computed_tokens(), 104u);
  WaitForStores();
  const Answer warm = Generate(request);
  EXPECT_EQ(warm.started.usage().exact_tokens(), 96u);  // blocks of 16 before the last token
  EXPECT_EQ(warm.started.usage().computed_tokens(), 8u);
  EXPECT_EQ(warm.ids, cold.ids);
  // As if nobody had marked segments.
  const Answer unmarked = Generate(Request({Joined({lead_, a_, b_, suffix_})}));
  EXPECT_EQ(unmarked.started.usage().exact_tokens(), 96u);
  EXPECT_EQ(unmarked.ids, cold.ids);
}

TEST_F(GenerationTest, AutoAndBlendAndNothingBlend) {
  Generate(Request({lead_, a_, b_, suffix_}));
  WaitForStores();
  const Answer unspecified = Generate(Request({lead_, a_, b_, suffix_}));
  for (const auto mode : {worker::v1::AUTO, worker::v1::BLEND}) {
    GenerateRequest request = Request({lead_, a_, b_, suffix_});
    request.mutable_blend()->set_mode(mode);
    const Answer answer = Generate(request);
    EXPECT_EQ(answer.started.policy(), "query_v");
    EXPECT_EQ(answer.started.segments(1).source(), SegmentReport::CACHE);
    EXPECT_EQ(answer.ids, unspecified.ids);
  }
}

TEST_F(GenerationTest, WithoutStoreChunksAreReadAndNoneIsWritten) {
  GenerateRequest request = Request({lead_, a_, b_, suffix_});
  request.mutable_blend()->set_store(false);
  const Answer cold = Generate(request);
  WaitForStores();
  EXPECT_EQ(entries(), 0u);
  Generate(Request({lead_, a_, suffix_}));
  WaitForStores();
  const uint64_t stored = entries();
  const Answer warm = Generate(request);
  EXPECT_EQ(warm.started.segments(1).source(), SegmentReport::CACHE);
  EXPECT_EQ(warm.started.segments(2).source(), SegmentReport::COMPUTED);
  EXPECT_EQ(warm.ids, cold.ids);
  WaitForStores();
  EXPECT_EQ(entries(), stored);
}

TEST_F(GenerationTest, CancellingBetweenAnswersStopsAndFreesEverything) {
  Generate(Request({lead_, a_, b_, suffix_}));
  WaitForStores();
  GenerateRequest request = Request({lead_, a_, b_, suffix_}, 20);
  request.set_n(128);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  GenerateResponse response;
  bool second = false;
  while (!second && reader->Read(&response)) second = response.token().index() == 1;
  ASSERT_TRUE(second);
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Generate(Request({lead_, a_, suffix_})).status.ok()) << "the device is free again";
  EXPECT_TRUE(control_->WaitForNoPins(absl::Seconds(30)));
}

}  // namespace
}  // namespace tessera
