#include "gateway/text/chat_template.h"

#include <array>
#include <utility>

#include "base/status_macros.h"
#include "gateway/text/jinja_parser.h"
#include "gateway/text/jinja_renderer.h"
#include "gateway/text/jinja_strings.h"

namespace tessera {
namespace {

using jinja::Value;

static_assert(kFromOther == jinja::kOtherOrigin);

constexpr std::array<std::string_view, 7> kRoles = {"system", "developer", "user",   "assistant",
                                                    "tool",   "function",  "ipython"};

// The parts' texts as one text, each with its own origin, counted up in *part.
Value Content(const std::vector<std::string>& parts, int* part, jinja::Pool* pool) {
  if (parts.empty()) return Value::None();
  TrackedText text;
  for (const std::string& each : parts) text.Append(each, (*part)++);
  return pool->Text(std::move(text));
}

Value Messages(const ChatPrompt& prompt, int* part, jinja::Pool* pool) {
  jinja::List messages;
  for (const ChatMessage& message : prompt.messages) {
    jinja::Map map;
    const auto add = [&](std::string_view name, Value value) {
      map.emplace_back(pool->Text(name, kFromOther).text, value);
    };
    // Templates build special tokens of roles ("<|user|>"), so the known ones are trusted.
    bool known = false;
    for (const std::string_view role : kRoles) known = known || role == message.role;
    add("role", pool->Text(message.role, known ? kFromTemplate : kFromOther));
    add("content", Content(message.parts, part, pool));
    for (const auto& [name, value] : message.fields) {
      const std::string_view key(name.data(), name.size());
      if (key != "role" && key != "content") add(key, pool->FromJson(value, kFromOther));
    }
    messages.push_back(pool->MakeMap(std::move(map)));
  }
  return pool->MakeList(std::move(messages));
}

Value Documents(const std::vector<ChatDocument>& documents, int* part, jinja::Pool* pool) {
  jinja::List list;
  for (const ChatDocument& document : documents) {
    jinja::Map map;
    const auto add = [&](std::string_view name, std::string_view text, int origin) {
      map.emplace_back(pool->Text(name, kFromOther).text, pool->Text(text, origin));
    };
    add("title", document.title, kFromOther);
    add("text", document.text, (*part)++);
    list.push_back(pool->MakeMap(std::move(map)));
  }
  return pool->MakeList(std::move(list));
}

// What the prompt is when its final message is left open: nothing follows the last byte of that
// message's text. So white space that the template trimmed there is gone.
absl::Status CutBehindFinalMessage(const ChatPrompt& prompt, std::vector<RenderedRun>* runs) {
  int parts = 0;
  for (const ChatMessage& message : prompt.messages) {
    parts += static_cast<int>(message.parts.size());
  }
  const bool has_text = !prompt.messages.empty() && !prompt.messages.back().parts.empty();
  while (has_text && !runs->empty() && runs->back().origin != parts - 1) runs->pop_back();
  if (has_text && !runs->empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "continue_final_message: the final message has no text in the prompt to go on with");
}

}  // namespace

struct ChatTemplate::Program {
  jinja::ParsedTemplate parsed;
  TemplateTokens tokens;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<ChatTemplate> ChatTemplate::Load(std::string_view source, TemplateTokens tokens) {
  ASSIGN_OR_RETURN(jinja::ParsedTemplate parsed, jinja::Parse(source, kFromTemplate));
  auto program = std::make_unique<Program>();
  program->parsed = std::move(parsed);
  program->tokens = std::move(tokens);
  return ChatTemplate(std::move(program));
}

bool ChatTemplate::Uses(std::string_view name) const {
  return program_->parsed.names.contains(name);
}

absl::StatusOr<std::vector<RenderedRun>> ChatTemplate::Render(const ChatPrompt& prompt) const {
  jinja::Pool pool;
  jinja::Renderer renderer(&pool, prompt.now);
  const TemplateTokens& tokens = program_->tokens;
  const std::array<std::pair<std::string_view, std::string_view>, 4> named = {
      {{"bos_token", tokens.bos_token},
       {"eos_token", tokens.eos_token},
       {"pad_token", tokens.pad_token},
       {"unk_token", tokens.unk_token}}};
  for (const auto& [name, text] : named) {
    if (!text.empty()) renderer.Set(name, pool.Text(text, kFromTemplate));
  }
  for (const auto& [name, value] : prompt.variables) {
    renderer.Set({name.data(), name.size()}, pool.FromJson(value, kFromOther));
  }
  int part = 0;
  renderer.Set("messages", Messages(prompt, &part, &pool));
  if (!prompt.documents.empty()) {
    renderer.Set("documents", Documents(prompt.documents, &part, &pool));
  }
  renderer.Set("add_generation_prompt", Value::Bool(prompt.add_generation_prompt));
  ASSIGN_OR_RETURN(const TrackedText text, renderer.Render(program_->parsed.body));
  std::vector<RenderedRun> runs;
  size_t begin = 0;
  for (const TrackedText::Run& run : text.runs()) {
    runs.push_back({std::string(text.view().substr(begin, run.end - begin)), run.origin});
    begin = run.end;
  }
  if (prompt.continue_final_message) RETURN_IF_ERROR(CutBehindFinalMessage(prompt, &runs));
  return runs;
}

}  // namespace tessera
