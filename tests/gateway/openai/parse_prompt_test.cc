#include "gateway/openai/parse_prompt.h"

#include "absl/strings/str_join.h"
#include "tests/gateway/openai/parse_request.h"

namespace tessera::openai {
namespace {

std::vector<Prompt> Prompts(const std::string& prompt, ChunkTexts* texts = nullptr) {
  return Parse(Endpoint::kCompletions, R"({"prompt": )" + prompt + "}", {}, texts).prompts;
}

// One line for all prompts: text as it is, token ids as <1 2>, parts as [a|b].
std::string Shown(const std::string& prompt, ChunkTexts* texts = nullptr) {
  std::string shown;
  for (const Prompt& each : Prompts(prompt, texts)) {
    if (!shown.empty()) shown += ", ";
    if (const auto* text = std::get_if<std::string>(&each)) {
      shown += *text;
    } else if (const auto* parts = std::get_if<TextParts>(&each)) {
      shown += "[" + absl::StrJoin(*parts, "|") + "]";
    } else {
      shown += "<" + absl::StrJoin(std::get<std::vector<uint32_t>>(each), " ") + ">";
    }
  }
  return shown;
}

std::string RefusedPrompt(const std::string& prompt, ChunkTexts* texts = nullptr,
                          int http_status = 400) {
  return RefusedParam(Endpoint::kCompletions, R"({"prompt": )" + prompt + "}", {}, texts,
                      http_status);
}

std::string RefusedMessages(const std::string& messages, ChunkTexts* texts = nullptr,
                            int http_status = 400) {
  return RefusedParam(Endpoint::kChat, R"({"messages": )" + messages + "}", {}, texts, http_status);
}

TEST(ParsePromptTest, ReadsEveryFormOfPrompt) {
  EXPECT_EQ(Shown("\"x\""), "x");
  EXPECT_EQ(Shown("[1, 2]"), "<1 2>");
  EXPECT_EQ(Shown("[[1, 2]]"), "<1 2>");
  EXPECT_EQ(Shown(R"(["x"])"), "x");
  EXPECT_EQ(Shown(R"(["x", [3], "y"])"), "x, <3>, y");
  EXPECT_EQ(Shown(R"([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])"), "[a|b]");
  EXPECT_EQ(Shown(R"([[{"type": "text", "text": "a"}], "b"])"), "[a], b");
}

TEST(ParsePromptTest, ChecksPrompts) {
  EXPECT_EQ(RefusedParam(Endpoint::kCompletions, "{}"), "prompt");
  EXPECT_EQ(RefusedPrompt("\"\""), "prompt");
  EXPECT_EQ(RefusedPrompt("[]"), "prompt");
  EXPECT_EQ(RefusedPrompt("5"), "prompt");
  EXPECT_EQ(RefusedPrompt("{}"), "prompt");
  EXPECT_EQ(RefusedPrompt("[[]]"), "prompt[0]");
  EXPECT_EQ(RefusedPrompt(R"(["a", ""])"), "prompt[1]");
  EXPECT_EQ(RefusedPrompt(R"([1, "x"])"), "prompt");
  EXPECT_EQ(RefusedPrompt(R"(["x", 1])"), "prompt[1]");
  EXPECT_EQ(RefusedPrompt("[-1]"), "prompt");
  EXPECT_EQ(RefusedPrompt("[true]"), "prompt");
  EXPECT_EQ(RefusedPrompt(R"([{"type": "image"}])"), "prompt[0]");
  EXPECT_EQ(RefusedPrompt(R"([{"type": "text", "text": "a"}, "b"])"), "prompt[1]");
  EXPECT_EQ(RefusedPrompt(R"([{"type": "text"}])"), "prompt[0].text");
}

TEST(ParsePromptTest, ReadsMessagesAndDocuments) {
  const ApiRequest request = Parse(Endpoint::kChat, R"({"messages": [
      {"role": "system", "content": "s"},
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
       "name": "n"},
      {"role": "assistant", "content": null, "tool_calls": []}],
      "documents": ["d", {"title": "t", "text": "e"}],
      "chat_template_kwargs": {"enable_thinking": false}, "add_generation_prompt": false})");
  const ChatPrompt& prompt = std::get<ChatPrompt>(request.prompts.at(0));
  ASSERT_EQ(prompt.messages.size(), 3u);
  EXPECT_EQ(prompt.messages[0].role, "system");
  EXPECT_EQ(prompt.messages[1].parts, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(prompt.messages[1].fields.at("name"), "n");
  EXPECT_TRUE(prompt.messages[2].parts.empty());
  ASSERT_EQ(prompt.documents.size(), 2u);
  EXPECT_EQ(prompt.documents[0].text, "d");
  EXPECT_EQ(prompt.documents[1].title, "t");
  EXPECT_FALSE(prompt.add_generation_prompt);
  EXPECT_FALSE(prompt.continue_final_message);
  EXPECT_EQ(prompt.variables.at("enable_thinking"), false);
}

TEST(ParsePromptTest, ContinuingAndBeginningAMessageExcludeEachOther) {
  const auto chat = [](const std::string& fields) {
    return std::get<ChatPrompt>(ParseChat(fields).prompts.at(0));
  };
  EXPECT_TRUE(chat(R"("user": "u")").add_generation_prompt);
  const ChatPrompt alone = chat(R"("continue_final_message": true)");
  EXPECT_TRUE(alone.continue_final_message);
  EXPECT_FALSE(alone.add_generation_prompt);
  EXPECT_TRUE(chat(R"("continue_final_message": true, "add_generation_prompt": false)")
                  .continue_final_message);
  EXPECT_EQ(RefusedChat(R"("continue_final_message": true, "add_generation_prompt": true)"),
            "continue_final_message");
  EXPECT_EQ(RefusedCompletion(R"("continue_final_message": true)"), "continue_final_message");
}

TEST(ParsePromptTest, ChecksMessagesAndDocuments) {
  EXPECT_EQ(RefusedParam(Endpoint::kChat, R"({"prompt": "x"})"), "messages");
  EXPECT_EQ(RefusedMessages("[]"), "messages");
  EXPECT_EQ(RefusedMessages(R"("x")"), "messages");
  EXPECT_EQ(RefusedMessages("[5]"), "messages[0]");
  EXPECT_EQ(RefusedMessages(R"([{"content": "x"}])"), "messages[0].role");
  EXPECT_EQ(RefusedMessages(R"([{"role": 5, "content": "x"}])"), "messages[0].role");
  EXPECT_EQ(RefusedMessages(R"([{"role": "user"}])"), "messages[0].content");
  EXPECT_EQ(RefusedMessages(R"([{"role": "user", "content": 5}])"), "messages[0].content");
  EXPECT_EQ(RefusedMessages(R"([{"role": "user", "content": [{"type": "image_url"}]}])"),
            "messages[0].content[0]");
  EXPECT_EQ(RefusedMessages(R"([{"role": "user", "content": [{"type": "text"}]}])"),
            "messages[0].content[0].text");
  EXPECT_EQ(RefusedMessages(R"([{"role": "user", "content": [{"type": "chunk"}]}])"),
            "messages[0].content[0].id");
  EXPECT_EQ(RefusedChat(R"("documents": "x")"), "documents");
  EXPECT_EQ(RefusedChat(R"("documents": [5])"), "documents[0]");
  EXPECT_EQ(RefusedChat(R"("documents": [{"title": "x"}])"), "documents[0]");
  EXPECT_EQ(RefusedChat(R"("documents": [{"text": "x", "chunk_id": "chunk-a"}])"),
            "documents[0].chunk_id");
  EXPECT_EQ(RefusedChat(R"("chat_template_kwargs": 5)"), "chat_template_kwargs");
}

TEST(ParsePromptTest, ChunksBecomeTheirTexts) {
  FixedChunkTexts texts;
  const std::string chunk = R"({"type": "chunk", "id": "chunk-a"})";
  EXPECT_EQ(Shown("[" + chunk + R"(, {"type": "text", "text": "q"}, )" + chunk + "]", &texts),
            "[text of a|q|text of a]");
  EXPECT_EQ(texts.asked().at("chunk-a"), 1);
  const ApiRequest request = Parse(Endpoint::kChat, R"({"cache_salt": "tenant", "messages": [
      {"role": "user", "content": [)" + chunk + R"(, {"type": "text", "text": "q"}]}],
      "documents": [{"chunk_id": "chunk-b"}, {"chunk_id": "chunk-a"}]})",
                                   {}, &texts);
  const ChatPrompt& prompt = std::get<ChatPrompt>(request.prompts.at(0));
  EXPECT_EQ(prompt.messages.at(0).parts, (std::vector<std::string>{"text of a", "q"}));
  EXPECT_EQ(prompt.documents.at(0).text, "text of b");
  EXPECT_EQ(prompt.documents.at(1).text, "text of a");
  EXPECT_EQ(texts.asked().at("chunk-a"), 2);
}

TEST(ParsePromptTest, ChunksThatAreNotThereNameTheirPlace) {
  FixedChunkTexts texts;
  const auto part = [](const std::string& id) {
    return R"([{"type": "chunk", "id": ")" + id + "\"}]";
  };
  EXPECT_EQ(RefusedPrompt(part("chunk-gone"), &texts, 404), "prompt[0].id");
  EXPECT_EQ(RefusedPrompt("[\"x\", " + part("chunk-gone") + "]", &texts, 404), "prompt[1][0].id");
  EXPECT_EQ(RefusedPrompt(part("chunk-away"), &texts, 503), "prompt[0].id");
  EXPECT_EQ(RefusedPrompt(part("what"), &texts), "prompt[0].id");
  EXPECT_EQ(RefusedPrompt(part("chunk-a")), "prompt[0].id");
  EXPECT_EQ(
      RefusedMessages(R"([{"role": "user", "content": )" + part("chunk-gone") + "}]", &texts, 404),
      "messages[0].content[0].id");
  EXPECT_EQ(RefusedParam(Endpoint::kChat,
                         R"({"messages": [{"role": "user", "content": "x"}], "cache_salt": "other",
                             "documents": [{"chunk_id": "chunk-a"}]})",
                         {}, &texts, 404),
            "documents[0].chunk_id");
  const auto missing =
      TryParse(Endpoint::kCompletions, R"({"prompt": )" + part("chunk-gone") + "}", {}, &texts);
  EXPECT_EQ(ErrorObject(missing.status()).at("error").at("code"), "chunk_not_found");
}

TEST(ParsePromptTest, ChunksOfAPromptAreBounded) {
  FixedChunkTexts texts;
  const auto parts = [](int count, const std::string& id) {
    std::string list;
    for (int i = 0; i < count; ++i) {
      list += (i == 0 ? "[" : ", ") + (R"({"type": "chunk", "id": ")" + id + "\"}");
    }
    return list + "]";
  };
  EXPECT_EQ(std::get<TextParts>(Prompts(parts(1024, "chunk-a"), &texts).at(0)).size(), 1024u);
  EXPECT_EQ(RefusedPrompt(parts(1025, "chunk-a"), &texts), "prompt[1024].id");
  EXPECT_EQ(RefusedPrompt(parts(2, "chunk-huge"), &texts), "prompt[1].id");
}

}  // namespace
}  // namespace tessera::openai
