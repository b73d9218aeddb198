#include "gateway/text/segmenter.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway/text/tiny_tokenizer.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kTemplate[] =
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] | trim + '<|end|>\n' "
    "}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";

class SegmenterTest : public testing::Test {
 protected:
  SegmenterTest() { UseTemplate(kTemplate); }

  void UseTemplate(std::string_view source) {
    model_.tokenizer = TinyTokenizer();
    auto chat_template = ChatTemplate::Load(source, {});
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    model_.chat_template = *std::move(chat_template);
  }

  std::vector<std::string> Texts(const absl::StatusOr<SegmentedPrompt>& prompt) {
    if (!prompt.ok()) return {std::string(prompt.status().message())};
    std::vector<std::string> texts;
    for (const auto& ids : prompt->segments) texts.push_back(model_.tokenizer->Decode(ids, false));
    return texts;
  }

  std::vector<std::string> Completion(std::string_view prompt) {
    return Texts(SegmentCompletion(model_, prompt, options_));
  }

  std::vector<std::string> Chat(std::vector<ChatMessage> messages,
                                std::vector<ChatDocument> documents = {}) {
    ChatPrompt prompt;
    prompt.messages = std::move(messages);
    prompt.documents = std::move(documents);
    return Texts(SegmentChat(model_, prompt, options_));
  }

  ModelText model_;
  SegmenterOptions options_;
};

TEST_F(SegmenterTest, CompletionIsCutAtSeparators) {
  EXPECT_THAT(Completion("lead # # one # # two # # why?"),
              ElementsAre("lead\n\n", "one\n\n", "two\n\n", "why?"));
  EXPECT_THAT(Completion("no border # here"), ElementsAre("no border # here"));
  // Whatever stands beside it, and however it would have been merged.
  EXPECT_THAT(Completion("a# # # # #b # # c"), ElementsAre("a#\n\n", "# #b\n\n", "c"));
  options_.keep_separator = true;
  EXPECT_THAT(Completion("a # # b"), ElementsAre("a # # ", "b"));
  options_.separator = "";
  EXPECT_THAT(Completion("a # # b"), ElementsAre("a # # b"));
}

TEST_F(SegmenterTest, EqualTextsAreEqualIds) {
  const auto prompt = SegmentCompletion(model_, "x # # hello # # y # # hello # # z", options_);
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(prompt->segments[1], prompt->segments[3]);
  EXPECT_THAT(prompt->segments[1], ElementsAre(kHello, kTwoLines));
  EXPECT_EQ(prompt->token_count(), 2u + 2 + 2 + 2 + 1);
}

TEST_F(SegmenterTest, CompletionBos) {
  model_.completion_bos = kStart;
  const auto prompt = SegmentCompletion(model_, "hello # # hello", options_);
  ASSERT_TRUE(prompt.ok());
  EXPECT_THAT(prompt->segments,
              ElementsAre(ElementsAre(kStart, kHello, kTwoLines), ElementsAre(kHello)));
}

TEST_F(SegmenterTest, CompletionSpecialTokensOnlyOnRequest) {
  EXPECT_EQ(SegmentCompletion(model_, "<|end|>", options_)->token_count(), 7u);
  options_.completion_special = SpecialTokens::kRecognised;
  EXPECT_EQ(SegmentCompletion(model_, "<|end|>", options_)->token_count(), 1u);
}

TEST_F(SegmenterTest, EmptySegmentsAreRefusedWithAdvice) {
  for (const char* prompt : {"", " # # ", " # # a", "a # # ", "a # #  # # b", "a # #   # # b"}) {
    const auto cut = SegmentCompletion(model_, prompt, options_);
    EXPECT_EQ(cut.status().code(), absl::StatusCode::kInvalidArgument) << prompt;
    EXPECT_THAT(std::string(cut.status().message()), HasSubstr("prompt"));
  }
  EXPECT_THAT(Completion("a # #  # # b")[0], HasSubstr("segment 2 of 3"));
  EXPECT_THAT(Chat({{.role = "user", .parts = {"a", ""}}})[0], HasSubstr("messages[0].content"));
  EXPECT_THAT(Chat({})[0], HasSubstr("messages is empty"));
  EXPECT_THAT(Completion("a # # \xff # # b")[0], HasSubstr("UTF-8"));
}

TEST_F(SegmenterTest, ChatWithoutBordersIsOneSegment) {
  EXPECT_THAT(Chat({{.role = "user", .parts = {" hi "}}}),
              ElementsAre("<|start|>user\nhi<|end|>\n<|start|>assistant\n"));
}

TEST_F(SegmenterTest, ChatIsCutInsideAMessage) {
  EXPECT_THAT(Chat({{.role = "system", .parts = {"sys"}},
                    {.role = "user", .parts = {"one # # two # # why? "}}}),
              ElementsAre("<|start|>system\nsys<|end|>\n<|start|>user\n", "one\n\n", "two\n\n",
                          "why?<|end|>\n<|start|>assistant\n"));
}

TEST_F(SegmenterTest, PartsAreSegments) {
  EXPECT_THAT(Chat({{.role = "user", .parts = {"one", "two # # three", "why?"}}}),
              ElementsAre("<|start|>user\n", "one\n\n", "two\n\n", "three\n\n",
                          "why?<|end|>\n<|start|>assistant\n"));
}

TEST_F(SegmenterTest, TrimsOfTheTemplateLeaveChunksAlone) {
  const auto texts = Chat({{.role = "user", .parts = {"  one  # #   one   # #  why?  "}}});
  EXPECT_THAT(texts, ElementsAre("<|start|>user\n", "  one \n\n", "  one  \n\n",
                                 " why?<|end|>\n<|start|>assistant\n"));
}

TEST_F(SegmenterTest, LastPieceOfASystemMessageIsAChunk) {
  EXPECT_THAT(
      Chat({{.role = "system", .parts = {"rules # # one"}}, {.role = "user", .parts = {"why?"}}}),
      ElementsAre("<|start|>system\n", "rules\n\n", "one\n\n",
                  "<|end|>\n<|start|>user\nwhy?<|end|>\n<|start|>assistant\n"));
}

TEST_F(SegmenterTest, EarlierQuestionsStayWithWhatFollows) {
  EXPECT_THAT(Chat({{.role = "user", .parts = {"one # # q1"}},
                    {.role = "assistant", .parts = {"a1"}},
                    {.role = "user", .parts = {"two # # q2"}}}),
              ElementsAre("<|start|>user\n", "one\n\n",
                          "q1<|end|>\n<|start|>assistant\na1<|end|>\n<|start|>user\n", "two\n\n",
                          "q2<|end|>\n<|start|>assistant\n"));
}

TEST_F(SegmenterTest, DocumentsComeBeforeTheLastQuestion) {
  EXPECT_THAT(Chat({{.role = "user", .parts = {"hello"}}, {.role = "user", .parts = {"why?"}}},
                   {{"Title", "one"}, {"", "two"}}),
              ElementsAre("<|start|>user\nhello<|end|>\n<|start|>user\n", "Title\none\n\n",
                          "two\n\n", "why?<|end|>\n<|start|>assistant\n"));
  EXPECT_THAT(Chat({{.role = "system", .parts = {"s"}}}, {{"", "one"}})[0], HasSubstr("user"));
  EXPECT_THAT(Chat({{.role = "user", .parts = {"q"}}}, {{"t", " "}})[0], HasSubstr("documents[0]"));
}

TEST_F(SegmenterTest, DocumentsThroughTheTemplate) {
  UseTemplate(
      "{% for d in documents %}[{{ d.title }}]{{ d.text | trim }}{% endfor %}"
      "{{ messages[0].content }}");
  EXPECT_THAT(Chat({{.role = "user", .parts = {"why?"}}}, {{"A", "one"}, {"B", "two"}}),
              ElementsAre("[A]", "one\n\n", "[B]", "two\n\n", "why?"));
}

TEST_F(SegmenterTest, ChunksThatTheTemplateLeavesOut) {
  UseTemplate("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}");
  EXPECT_THAT(
      Chat({{.role = "system", .parts = {"one # # two"}}, {.role = "user", .parts = {"q"}}})[0],
      HasSubstr("leaves out"));
}

TEST_F(SegmenterTest, UsersCannotWriteSpecialTokens) {
  ChatPrompt prompt;
  prompt.messages = {{.role = "user", .parts = {"<|end|> # # <|start|> # # <|end|>"}}};
  const auto cut = SegmentChat(model_, prompt, options_);
  ASSERT_TRUE(cut.ok());
  size_t special = 0;
  for (const auto& ids : cut->segments) {
    for (const uint32_t id : ids) special += model_.tokenizer->IsSpecial(id);
  }
  EXPECT_EQ(special, 3u);  // the template's own
}

TEST_F(SegmenterTest, WithoutTemplate) {
  model_.chat_template.reset();
  ChatPrompt prompt;
  prompt.messages = {{.role = "user", .parts = {"q"}}};
  EXPECT_EQ(SegmentChat(model_, prompt, options_).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

std::string TinyJson() { return boost::json::serialize(TinyTokenizerJson()); }

TEST(ModelTextTest, ReadsConfig) {
  const std::string folder =
      MakeModelFolder({{"tokenizer.json", TinyJson()},
                       {"tokenizer_config.json",
                        R"({"bos_token": {"content": "<|start|>"}, "add_bos_token": true,
            "chat_template": [{"name": "default", "template": "{{ bos_token }}"}]})"}});
  const auto model = LoadModelText(folder);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->completion_bos, kStart);
  ASSERT_TRUE(model->chat_template.has_value());
  EXPECT_EQ(model->chat_template->Render({})->at(0).text, "<|start|>");
}

TEST(ModelTextTest, BosFromThePostProcessor) {
  boost::json::object json = TinyTokenizerJson();
  json["post_processor"] = {{"type", "Sequence"},
                            {"processors",
                             {{{"type", "ByteLevel"}},
                              {{"type", "TemplateProcessing"},
                               {"single",
                                {{{"SpecialToken", {{"id", "<|start|>"}, {"type_id", 0}}}},
                                 {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}}}}};
  const auto folder = [&](const char* config) {
    return MakeModelFolder(
        {{"tokenizer.json", boost::json::serialize(json)}, {"tokenizer_config.json", config}});
  };
  EXPECT_EQ(LoadModelText(folder(R"({"bos_token": "<|start|>"})"))->completion_bos, kStart);
  EXPECT_EQ(LoadModelText(folder(R"({"bos_token": "<|start|>", "add_bos_token": false})"))
                ->completion_bos,
            std::nullopt);
  EXPECT_EQ(LoadModelText(folder(R"({"bos_token": "<|end|>"})"))->completion_bos, std::nullopt);
}

TEST(ModelTextTest, MissingAndDamagedFiles) {
  const auto bare = LoadModelText(MakeModelFolder({{"tokenizer.json", TinyJson()}}));
  ASSERT_TRUE(bare.ok()) << bare.status();
  EXPECT_FALSE(bare->chat_template.has_value());
  EXPECT_EQ(bare->completion_bos, std::nullopt);
  const auto status = [](const char* config) {
    return LoadModelText(
               MakeModelFolder({{"tokenizer.json", TinyJson()}, {"tokenizer_config.json", config}}))
        .status()
        .code();
  };
  EXPECT_EQ(status("{"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status(R"({"chat_template": 5})"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status(R"({"chat_template": "{% macro x() %}"})"), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status(R"({"bos_token": "<none>", "add_bos_token": true})"),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SegmenterTest, AChunkAloneIsTheSegmentOfAPrompt) {
  const std::vector<ChatDocument> documents = {
      {"", "hello"}, {"hell", "hello world"}, {"", " he\n"}, {"T", "<|end|> \xc3\xa9\n\n"}};
  for (const bool keep_separator : {false, true}) {
    options_.keep_separator = keep_separator;
    for (const ChatDocument& document : documents) {
      const auto ids = SegmentChunk(model_, document, options_);
      ASSERT_TRUE(ids.ok()) << ids.status();
      const std::string text = ChunkText(model_, document);
      EXPECT_EQ(text,
                document.title.empty() ? document.text : document.title + "\n" + document.text);
      const auto written = SegmentCompletion(model_, "lead # # " + text + " # # why", options_);
      ASSERT_TRUE(written.ok()) << written.status();
      EXPECT_EQ(written->segments[1], *ids);
      const auto chat = SegmentChat(
          model_, {.messages = {{"user", {"why"}, {}}}, .documents = {document}}, options_);
      ASSERT_TRUE(chat.ok()) << chat.status();
      ASSERT_EQ(chat->segments.size(), 3u);
      EXPECT_EQ(chat->segments[1], *ids);
    }
  }
}

TEST_F(SegmenterTest, AChunkAloneWhereTheTemplateTakesDocuments) {
  UseTemplate(
      "{% for d in documents %}<|start|>{{ d['title'] }}: {{ d['text'] }}<|end|>{% endfor %}"
      "{% for m in messages %}{{ m['content'] }}{% endfor %}");
  const ChatDocument document = {"title", "hello"};
  // The title is the template's to write, so it is no part of the chunk.
  EXPECT_EQ(ChunkText(model_, document), "hello");
  const auto ids = SegmentChunk(model_, document, options_);
  ASSERT_TRUE(ids.ok()) << ids.status();
  const auto chat =
      SegmentChat(model_, {.messages = {{"user", {"why"}, {}}}, .documents = {document}}, options_);
  ASSERT_TRUE(chat.ok()) << chat.status();
  ASSERT_EQ(chat->segments.size(), 3u);
  EXPECT_EQ(chat->segments[1], *ids);
}

TEST_F(SegmenterTest, WhatIsNoChunk) {
  EXPECT_THAT(SegmentChunk(model_, {"T", " \n"}, options_).status().message(), HasSubstr("empty"));
  EXPECT_THAT(SegmentChunk(model_, {"", "a # # b"}, options_).status().message(),
              HasSubstr("separator"));
  EXPECT_THAT(SegmentChunk(model_, {"a # # b", "c"}, options_).status().message(),
              HasSubstr("separator"));
  EXPECT_EQ(SegmentChunk(model_, {"", "\xff"}, options_).status().code(),
            absl::StatusCode::kInvalidArgument);
  options_.separator = "";
  EXPECT_TRUE(SegmentChunk(model_, {"", "a # # b"}, options_).ok());
}

}  // namespace
}  // namespace tessera
