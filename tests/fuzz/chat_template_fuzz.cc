// Arbitrary bytes as a chat template, rendered with a conversation (gateway/text/chat_template.h).
//
// The input is the template, a zero byte, and the conversation: a JSON object with messages,
// documents and other variables; anything else stands for a short one. What is rendered is UTF-8,
// knows who wrote each stretch of it, and is the same the second time; and what the templates take
// in steps and memory is bounded, which the fuzzer's own limits watch.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "boost/json.hpp"
#include "gateway/text/chat_template.h"
#include "gateway/text/utf8.h"
#include "glog/logging.h"

namespace tessera::fuzz {
namespace {

namespace json = boost::json;

constexpr size_t kMostMessages = 64;

std::string TextOf(const json::value& value) {
  return value.is_string() ? std::string(value.get_string()) : json::serialize(value);
}

ChatMessage MessageOf(const json::object& object) {
  ChatMessage message;
  for (const auto& [key, value] : object) {
    if (key == "role") {
      message.role = TextOf(value);
    } else if (key != "content") {
      message.fields[key] = value;
    } else if (value.is_array()) {
      for (const json::value& part : value.get_array()) message.parts.push_back(TextOf(part));
    } else {
      message.parts.push_back(TextOf(value));
    }
  }
  return message;
}

ChatPrompt PromptOf(std::string_view text) {
  ChatPrompt prompt;
  prompt.now = absl::FromUnixSeconds(1700000000);
  boost::system::error_code error;
  const json::value value = json::parse({text.data(), text.size()}, error);
  if (error || !value.is_object() || FindInvalidUtf8(text) != std::string_view::npos) {
    prompt.messages.push_back({.role = "system", .parts = {"Be brief."}, .fields = {}});
    prompt.messages.push_back(
        {.role = "user", .parts = {"Grüße ", "\"<|im_end|>\""}, .fields = {}});
    return prompt;
  }
  for (const auto& [key, entry] : value.get_object()) {
    if (key == "messages" && entry.is_array()) {
      for (const json::value& message : entry.get_array()) {
        if (!message.is_object() || prompt.messages.size() == kMostMessages) continue;
        prompt.messages.push_back(MessageOf(message.get_object()));
      }
    } else if (key == "documents" && entry.is_array()) {
      for (const json::value& document : entry.get_array()) {
        prompt.documents.push_back({.title = "title", .text = TextOf(document)});
      }
    } else if (key == "continue_final_message") {
      prompt.continue_final_message = true;
    } else {
      prompt.variables[key] = entry;
    }
  }
  return prompt;
}

void Check(const ChatPrompt& prompt, const std::vector<RenderedRun>& runs) {
  int parts = static_cast<int>(prompt.documents.size());
  for (const ChatMessage& message : prompt.messages) {
    parts += static_cast<int>(message.parts.size());
  }
  std::string text;
  for (size_t i = 0; i < runs.size(); ++i) {
    CHECK(!runs[i].text.empty());
    CHECK(runs[i].origin >= kFromOther && runs[i].origin < parts) << runs[i].origin;
    CHECK(i == 0 || runs[i].origin != runs[i - 1].origin);
    text += runs[i].text;
  }
  CHECK_EQ(FindInvalidUtf8(text), std::string_view::npos) << text;
}

}  // namespace

void FuzzChatTemplate(std::string_view input) {
  const size_t end = input.find('\0');
  const std::string source(input.substr(0, end));
  const std::string_view rest =
      end == std::string_view::npos ? std::string_view() : input.substr(end + 1);
  const auto loaded = ChatTemplate::Load(
      source, {.bos_token = "<s>", .eos_token = "</s>", .pad_token = "", .unk_token = ""});
  if (!loaded.ok()) {
    CHECK(!loaded.status().message().empty());
    return;
  }
  const ChatPrompt prompt = PromptOf(rest);
  const auto runs = loaded->Render(prompt);
  if (!runs.ok()) {
    CHECK(absl::IsInvalidArgument(runs.status()) || absl::IsResourceExhausted(runs.status()))
        << runs.status();
    return;
  }
  Check(prompt, *runs);
  const auto again = loaded->Render(prompt);
  CHECK(again.ok() && again->size() == runs->size());
}

}  // namespace tessera::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  tessera::fuzz::FuzzChatTemplate({reinterpret_cast<const char*>(bytes), size});
  return 0;
}
