// A stream must add up to just what the same request gives whole, whatever it asks for.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/gateway/openai/stream_fixture.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

// Every choice of one from each list, joined by commas; empty ones left out.
std::vector<std::string> Combinations(const std::vector<std::vector<std::string>>& lists) {
  std::vector<std::string> all = {""};
  for (const std::vector<std::string>& list : lists) {
    std::vector<std::string> longer;
    for (const std::string& before : all) {
      for (const std::string& field : list) {
        longer.push_back(absl::StrCat(before, before.empty() || field.empty() ? "" : ", ", field));
      }
    }
    all = std::move(longer);
  }
  return all;
}

class SameAnswerTest : public StreamFixture {
 protected:
  void Check(const std::string& fields, std::string_view path) {
    const json::object whole = Complete("{" + fields + "}", path).as_object();
    const std::vector<Json> events = Stream(
        "{" + fields + R"(, "stream": true, "stream_options": {"include_usage": true}})", path);
    json::object joined = Joined(events);
    EXPECT_EQ(joined.size(), whole.contains("prompt_token_ids") ? 4u : 3u);
    for (const auto& [name, value] : joined) {
      if (name == "choices") continue;
      EXPECT_EQ(value, whole.at(name)) << name << " of " << fields;
    }
    json::array choices = whole.at("choices").as_array();
    json::array& streamed = joined["choices"].as_array();
    ASSERT_EQ(streamed.size(), choices.size()) << fields;
    for (size_t i = 0; i < choices.size(); ++i) {
      // Where there is nothing to score, a stream says nothing and a whole answer lists nothing.
      json::object& choice = choices[i].as_object();
      if (streamed[i].at("logprobs").is_null()) EmptyLogprobs(&choice);
      EXPECT_EQ(streamed[i], choice) << fields;
    }
  }

 private:
  static void EmptyLogprobs(json::object* choice) {
    json::value& logprobs = (*choice)["logprobs"];
    if (!logprobs.is_object()) return;
    for (const auto& [name, list] : logprobs.get_object()) EXPECT_TRUE(list.as_array().empty());
    logprobs = nullptr;
  }
};

TEST_F(SameAnswerTest, OfCompletions) {
  // Text with letters of all lengths; ids that are broken UTF-8 and special tokens; both.
  const std::string text = R"("lead # # \u00fc 日本 😀🇩🇪 hello lo")";
  const std::string ids = "[71, 256, 72, 200, 201, 130, 256, 75, 81, 255]";
  const std::vector<std::string> all = Combinations({
      {"\"prompt\": " + text, "\"prompt\": [" + text + ", " + ids + ", \"x\"]"},
      {R"("max_tokens": 7)", R"("max_tokens": 60)", R"("max_tokens": 0, "echo": true)",
       R"("max_tokens": 30, "echo": true)"},
      {"", R"("n": 3)"},
      {"", R"("stop": ["lo", "🇩"])", R"("stop": ["lo", "🇩"], "include_stop_str_in_output": true)"},
      {"", R"("logprobs": 0)", R"("logprobs": 3)"},
      {"", R"("return_token_ids": true)"},
      {"", R"("skip_special_tokens": false, "stop_token_ids": [108])"},
  });
  EXPECT_EQ(all.size(), 576u);
  for (const std::string& fields : all) {
    Check(fields, kCompletions);
    if (HasFailure()) return;
  }
}

TEST_F(SameAnswerTest, OfChats) {
  const std::vector<std::string> all = Combinations({
      {R"("messages": [{"role": "user", "content": "one # # ü 日本 😀🇩🇪 hello lo"}])"},
      {"", R"("max_tokens": 3)"},
      {"", R"("n": 4)"},
      {"", R"("stop": "lo")", R"("stop": "lo", "include_stop_str_in_output": true)",
       R"("stop": "lo", "min_tokens": 36)"},
      {"", R"("logprobs": true)", R"("logprobs": true, "top_logprobs": 5)"},
      {"", R"("return_token_ids": true)"},
      {"", R"("skip_special_tokens": false)"},
      {"", R"("continue_final_message": true)"},
  });
  EXPECT_EQ(all.size(), 384u);
  for (const std::string& fields : all) {
    if (fields.find("\"max_tokens\": 3, ") != std::string::npos &&
        fields.find("min_tokens\": 36") != std::string::npos) {
      continue;
    }
    Check(fields, kChat);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace tessera::openai
