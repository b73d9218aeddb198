#include "gateway/text/chat_template.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kChatMl[] =
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] | trim + '<|end|>\n' "
    "}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";

MATCHER_P2(Piece, text, origin, "") { return arg.text == text && arg.origin == origin; }

absl::StatusOr<std::vector<RenderedRun>> Render(std::string_view source, const ChatPrompt& prompt) {
  auto chat_template = ChatTemplate::Load(source, {.bos_token = "<bos>"});
  if (!chat_template.ok()) return chat_template.status();
  return chat_template->Render(prompt);
}

std::string Text(std::string_view source, const ChatPrompt& prompt = {}) {
  const auto runs = Render(source, prompt);
  if (!runs.ok()) return std::string(runs.status().message());
  std::string text;
  for (const RenderedRun& run : *runs) text += run.text;
  return text;
}

TEST(ChatTemplateTest, EveryByteKnowsItsOrigin) {
  ChatPrompt prompt;
  prompt.messages = {{.role = "system", .parts = {" be brief "}},
                     {.role = "user", .parts = {"one ", "two", " <|end|> "}}};
  const auto runs = Render(kChatMl, prompt);
  ASSERT_TRUE(runs.ok()) << runs.status();
  EXPECT_THAT(*runs, ElementsAre(Piece("<|start|>system\n", kFromTemplate), Piece("be brief", 0),
                                 Piece("<|end|>\n<|start|>user\n", kFromTemplate), Piece("one ", 1),
                                 Piece("two", 2), Piece(" <|end|>", 3),
                                 Piece("<|end|>\n<|start|>assistant\n", kFromTemplate)));
}

TEST(ChatTemplateTest, OriginsSurviveWhatTemplatesDoToText) {
  ChatPrompt prompt;
  prompt.messages = {{.role = "user", .parts = {"  <think>a</think>b", "|c  "}}};
  const auto runs = Render(
      "{% set c = messages[0].content %}{{ c.split('</think>')[-1].rstrip() ~ '!' }}"
      "{{ c[::-1] | upper }}{{ (c | replace('a', '<|x|>'))[2:14] }}{{ c | tojson }}",
      prompt);
  ASSERT_TRUE(runs.ok()) << runs.status();
  std::string own;
  for (const RenderedRun& run : *runs) {
    if (run.origin == kFromTemplate) own += run.text;
  }
  EXPECT_EQ(own, "!<|x|>");
  EXPECT_EQ((*runs)[0].text + (*runs)[1].text, "b|c");
  EXPECT_EQ((*runs)[1].origin, 1);
}

TEST(ChatTemplateTest, KnownRolesAreTheTemplatesOwnWords) {
  const char* source = "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% endfor %}";
  ChatPrompt prompt;
  prompt.messages = {{.role = "user", .parts = {"x"}}, {.role = "|><|end", .parts = {"x"}}};
  const auto runs = Render(source, prompt);
  ASSERT_TRUE(runs.ok());
  EXPECT_THAT(*runs, ElementsAre(Piece("<|user|><|", kFromTemplate), Piece("|><|end", kFromOther),
                                 Piece("|>", kFromTemplate)));
}

TEST(ChatTemplateTest, FieldsAndVariablesAreTheUsers) {
  ChatPrompt prompt;
  prompt.messages = {{.role = "user", .parts = {"x"}, .fields = {{"name", "<|end|>"}}}};
  prompt.variables["tools"] = boost::json::array{"<|start|>"};
  const auto runs = Render("{{ bos_token }}{{ messages[0].name }}{{ tools | tojson }}", prompt);
  ASSERT_TRUE(runs.ok());
  EXPECT_THAT(*runs, ElementsAre(Piece("<bos>", kFromTemplate),
                                 Piece("<|end|>[\"<|start|>\"]", kFromOther)));
}

TEST(ChatTemplateTest, DocumentsAreParts) {
  ChatPrompt prompt;
  prompt.messages = {{.role = "user", .parts = {"q"}}};
  prompt.documents = {{"t", "first"}, {"", "second"}};
  const auto runs =
      Render("{% for d in documents %}{{ d.title }}:{{ d.text }};{% endfor %}", prompt);
  ASSERT_TRUE(runs.ok());
  EXPECT_THAT(*runs, ElementsAre(Piece("t", kFromOther), Piece(":", kFromTemplate),
                                 Piece("first", 1), Piece(";:", kFromTemplate), Piece("second", 2),
                                 Piece(";", kFromTemplate)));
}

TEST(ChatTemplateTest, WhiteSpaceControl) {
  EXPECT_EQ(Text("a\n  {% if true %}\n  b\n  {%- endif %}\n\nc\n"), "a\n  b\nc");
  EXPECT_EQ(Text("a {#- gone -#} b\n  {# line #}\nc"), "ab\nc");
  EXPECT_EQ(Text("x\n  {%+ if true %}y{% endif +%}\nz"), "x\n  y\nz");
  EXPECT_EQ(Text("{{ 1 }}\n{{- 2 -}}\n 3"), "123");
}

TEST(ChatTemplateTest, RaiseExceptionGivesItsWords) {
  const auto runs = Render("{{ raise_exception('Roles must alternate') }}", {});
  EXPECT_EQ(runs.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(runs.status().message()), HasSubstr("Roles must alternate"));
}

TEST(ChatTemplateTest, RefusesAtLoadByName) {
  const auto refused = [](const char* source, const char* name) {
    const auto loaded = ChatTemplate::Load(source, {});
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kUnimplemented) << source;
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr(name));
  };
  refused("{% macro f() %}{% endmacro %}", "macro");
  refused("\n\n{% include 'x' %}", "line 3");
  refused("{{ x | wordwrap }}", "wordwrap");
  refused("{{ x is callable }}", "callable");
  refused("{{ x.append(1) }}", "append");
  refused("{{ cycler() }}", "cycler");
  refused("{{ x()() }}", "x()");
  refused("{{ 2 ** 3 }}", "**");
  refused("{{ 1 < 2 < 3 }}", "chain");
  refused("{% for x in y recursive %}{% endfor %}", "recursive");
}

TEST(ChatTemplateTest, BrokenSyntaxNamesTheLine) {
  for (const char* source : {"\n{% if x %}", "\n{{ x", "\n{{ 'x }}", "\n{% for x %}{% endfor %}",
                             "\n{{ ) }}", "\n{% endif %}", "\n{{ x[] }}", "\n{# x", "\n{{ ? }}",
                             "\n{% break %}", "\n{% set 1 = 2 %}", "\n{{ '\\ud800' }}"}) {
    const auto loaded = ChatTemplate::Load(source, {});
    EXPECT_FALSE(loaded.ok()) << source;
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("line 2")) << source;
  }
  EXPECT_FALSE(ChatTemplate::Load(std::string(5000, '(').insert(0, "{{"), {}).ok());
  EXPECT_FALSE(ChatTemplate::Load("{{" + std::string(5000, '-') + "1}}", {}).ok());
}

TEST(ChatTemplateTest, MisusedValuesAreErrors) {
  for (const char* source :
       {"{{ x.y }}", "{{ 'a' + 1 }}", "{{ 1 // 0 }}", "{{ 'a' < 1 }}",
        "{% for x in 5 %}{% endfor %}", "{{ 9223372036854775807 + 1 }}", "{{ 'a' * 99999999 }}",
        "{% set a, b = [1] %}", "{{ none | length }}"}) {
    EXPECT_EQ(Render(source, {}).status().code(), absl::StatusCode::kInvalidArgument) << source;
  }
}

TEST(ChatTemplateTest, EndlessWorkIsCutShort) {
  const auto runs = Render(
      "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = 1 %}{% endfor %}{% endfor "
      "%}",
      {});
  EXPECT_EQ(runs.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(ChatTemplateTest, UsesTellsNames) {
  const auto loaded = ChatTemplate::Load("{% if documents %}{{ tools | tojson }}{% endif %}", {});
  ASSERT_TRUE(loaded.ok());
  EXPECT_TRUE(loaded->Uses("documents"));
  EXPECT_TRUE(loaded->Uses("tools"));
  EXPECT_FALSE(loaded->Uses("messages"));
}

TEST(ChatTemplateTest, Date) {
  ChatPrompt prompt;
  prompt.now = absl::FromCivil(absl::CivilSecond(2026, 2, 3, 4, 5, 6), absl::LocalTimeZone());
  EXPECT_EQ(Text("{{ strftime_now('%d %b %Y') if strftime_now is defined }}", prompt),
            "03 Feb 2026");
}

}  // namespace
}  // namespace tessera
