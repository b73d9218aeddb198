// Renders chat templates for the comparison with Python's Jinja: one JSON object on standard input,
// {"template", "bos_token", "eos_token", "now", "prompts"}, a list of {"runs"} or {"error"} on
// standard output.
#include <boost/json.hpp>
#include <iostream>
#include <iterator>
#include <string>

#include "gateway/text/chat_template.h"

namespace tessera {
namespace {

using boost::json::value_to;

ChatPrompt PromptOf(const boost::json::object& json, int64_t now) {
  ChatPrompt prompt;
  prompt.now = absl::FromUnixSeconds(now);
  for (const auto& [name, value] : json) {
    if (name == "messages") {
      for (const boost::json::value& entry : value.get_array()) {
        ChatMessage message;
        for (const auto& [field, content] : entry.get_object()) {
          if (field == "role") {
            message.role = value_to<std::string>(content);
          } else if (field != "content") {
            message.fields[field] = content;
          } else if (content.is_string()) {
            message.parts = {value_to<std::string>(content)};
          }
        }
        prompt.messages.push_back(std::move(message));
      }
    } else if (name == "documents") {
      for (const boost::json::value& entry : value.get_array()) {
        prompt.documents.push_back(
            {value_to<std::string>(entry.at("title")), value_to<std::string>(entry.at("text"))});
      }
    } else if (name == "add_generation_prompt") {
      prompt.add_generation_prompt = value.get_bool();
    } else {
      prompt.variables[name] = value;
    }
  }
  return prompt;
}

boost::json::object Answer(const absl::StatusOr<std::vector<RenderedRun>>& runs) {
  if (!runs.ok()) return {{"error", std::string(runs.status().message())}};
  boost::json::array list;
  for (const RenderedRun& run : *runs) list.push_back({{"text", run.text}, {"origin", run.origin}});
  return {{"runs", list}};
}

int Main() {
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  const boost::json::value json = boost::json::parse(input);
  const auto source = value_to<std::string>(json.at("template"));
  const auto chat_template =
      ChatTemplate::Load(source, {.bos_token = value_to<std::string>(json.at("bos_token")),
                                  .eos_token = value_to<std::string>(json.at("eos_token"))});
  if (!chat_template.ok()) {
    std::cerr << chat_template.status() << "\n";
    return 1;
  }
  boost::json::array answers;
  for (const boost::json::value& prompt : json.at("prompts").get_array()) {
    answers.push_back(
        Answer(chat_template->Render(PromptOf(prompt.get_object(), json.at("now").get_int64()))));
  }
  std::cout << answers << "\n";
  return 0;
}

}  // namespace
}  // namespace tessera

int main() { return tessera::Main(); }
