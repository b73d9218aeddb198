// A model's chat template: messages in, prompt text out, and for every letter of it who wrote it.
#ifndef TESSERA_GATEWAY_TEXT_CHAT_TEMPLATE_H_
#define TESSERA_GATEWAY_TEXT_CHAT_TEMPLATE_H_

#include <boost/json.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

struct ChatMessage {
  // system, developer, user, assistant, tool, function or ipython count as the template's own
  // words; another role is passed on as the user's text.
  std::string role;
  // The content's text parts in order; a content that is a plain string is one part. The template
  // sees their concatenation, as a string. None: the template sees `none`.
  std::vector<std::string> parts;
  // Every other field of the message: name, tool_calls, tool_call_id, reasoning_content.
  boost::json::object fields;
};

// One passage for templates that know `documents`.
struct ChatDocument {
  std::string title;  // empty: no title
  std::string text;
};

struct ChatPrompt {
  std::vector<ChatMessage> messages;
  // Passages to answer from. The segmenter decides how they reach the prompt; ChatTemplate passes
  // them on as the variable `documents`, a list of {title, text}.
  std::vector<ChatDocument> documents;
  bool add_generation_prompt = true;
  // The prompt ends where the last message's text does, for the model to go on with it.
  bool continue_final_message = false;
  // Every other variable of the template: tools, enable_thinking and so on.
  boost::json::object variables;
  // What strftime_now() calls now; local time zone.
  absl::Time now = absl::Now();
};

// Who wrote a stretch of the rendered prompt.
inline constexpr int kFromTemplate = -1;  // the template: special tokens count
inline constexpr int kFromOther = -2;     // the user, in a field or a variable
// 0 and up: the user, in that part, counting the parts of all messages in order, and after them the
// text of every document.

struct RenderedRun {
  std::string text;
  int origin = kFromTemplate;
};

struct TemplateTokens {
  std::string bos_token;  // empty: none
  std::string eos_token;
  std::string pad_token;
  std::string unk_token;
};

// A parsed template. Immutable: Render may be called from any thread at any time.
class ChatTemplate {
 public:
  // Parses Jinja's subset as listed in gateway/text/README.md.
  // Errors: UNIMPLEMENTED naming the construct and its line, INVALID_ARGUMENT for broken syntax.
  static absl::StatusOr<ChatTemplate> Load(std::string_view source, TemplateTokens tokens);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // Renders as Hugging Face's apply_chat_template does. Neighbouring runs differ in origin, none is
  // empty. Every string keeps track of who wrote each of its bytes, whatever the template does to
  // it (trim, slice, split, concatenation), so no mark has to be put into the text itself.
  // Errors: INVALID_ARGUMENT with the template's own words when it calls raise_exception, or with
  // ours when it uses a value in a way it cannot be used, or leaves out the final message that is
  // to be continued; RESOURCE_EXHAUSTED when it runs too long.
  absl::StatusOr<std::vector<RenderedRun>> Render(const ChatPrompt& prompt) const;

  // True when the template reads the variable `name` anywhere: `documents`, `tools`.
  bool Uses(std::string_view name) const;

 private:
  struct Program;
  explicit ChatTemplate(std::unique_ptr<const Program> program);

  std::unique_ptr<const Program> program_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_CHAT_TEMPLATE_H_
