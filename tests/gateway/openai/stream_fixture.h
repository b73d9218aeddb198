// Streams read whole, and put together again to what the same request gives without a stream.
#ifndef TESSERA_TESTS_GATEWAY_OPENAI_STREAM_FIXTURE_H_
#define TESSERA_TESTS_GATEWAY_OPENAI_STREAM_FIXTURE_H_

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "boost/json/array.hpp"
#include "boost/json/object.hpp"
#include "boost/json/serialize.hpp"
#include "tests/gateway/openai/completion_fixture.h"

namespace tessera::openai {

class StreamFixture : public CompletionFixture {
 protected:
  using Json = boost::json::value;

  // All events of a stream; the last must be [DONE], which is left out.
  std::vector<Json> Stream(const std::string& body, std::string_view path = kCompletions) {
    const ClientResponse response = Post(path, body);
    EXPECT_EQ(response.status, 200) << response.body;
    std::vector<std::string> events = SplitEvents(response.body);
    EXPECT_FALSE(events.empty());
    if (events.empty()) return {};
    EXPECT_EQ(events.back(), "[DONE]");
    events.pop_back();
    std::vector<Json> values;
    for (const std::string& event : events) values.push_back(boost::json::parse(event));
    return values;
  }

  // The text of one choice.
  static std::string Text(const std::vector<Json>& events, int64_t index = 0) {
    std::string text;
    for (const Json& event : events) {
      for (const Json& choice : event.at("choices").as_array()) {
        if (choice.at("index").as_int64() != index) continue;
        const boost::json::object& part = choice.as_object();
        if (part.contains("text")) text += part.at("text").as_string().c_str();
        if (!part.contains("delta")) continue;
        const boost::json::object& delta = part.at("delta").as_object();
        if (delta.contains("content")) text += delta.at("content").as_string().c_str();
      }
    }
    return text;
  }

  // The response that these events add up to: its choices, and usage and tessera of the last event
  // if it has them. Fails the test where a stream must not go on, or begins wrongly.
  static boost::json::object Joined(const std::vector<Json>& events) {
    std::map<int64_t, boost::json::object> choices;
    boost::json::object whole;
    std::set<std::string> heads;
    for (const Json& event : events) {
      const boost::json::object& chunk = event.as_object();
      heads.insert(boost::json::serialize(boost::json::array{
          chunk.at("id"), chunk.at("object"), chunk.at("created"), chunk.at("model")}));
      if (chunk.contains("prompt_token_ids")) {
        whole["prompt_token_ids"] = chunk.at("prompt_token_ids");
      }
      if (chunk.at("choices").as_array().empty()) {
        whole["usage"] = chunk.at("usage");
        whole["tessera"] = chunk.at("tessera");
      }
      for (const Json& choice : chunk.at("choices").as_array()) {
        Add(choice.as_object(), &choices[choice.at("index").as_int64()]);
      }
    }
    EXPECT_LE(heads.size(), 1u);
    boost::json::array list;
    for (const auto& [index, choice] : choices) list.push_back(choice);
    whole["choices"] = std::move(list);
    return whole;
  }

 private:
  static void Add(const boost::json::object& part, boost::json::object* choice) {
    const bool first = choice->empty();
    EXPECT_TRUE(first || choice->at("finish_reason").is_null()) << "a choice goes on after its end";
    for (const auto& [name, value] : part) {
      if (name == "text") {
        AddText(value, name, choice);
      } else if (name == "delta") {
        EXPECT_EQ(value.as_object().contains("role"), first);
        boost::json::object& message = Object("message", choice);
        for (const auto& [field, text] : value.as_object()) AddText(text, field, &message);
      } else if (name == "logprobs") {
        if (first) (*choice)["logprobs"] = nullptr;
        if (!value.is_object()) continue;
        boost::json::object& logprobs = Object("logprobs", choice);
        for (const auto& [field, list] : value.as_object()) AddList(list, field, &logprobs);
      } else if (name == "token_ids") {
        AddList(value, name, choice);
      } else {
        (*choice)[name] = value;
      }
    }
  }

  static boost::json::object& Object(boost::json::string_view name, boost::json::object* parent) {
    boost::json::value& value = (*parent)[name];
    if (!value.is_object()) value = boost::json::object();
    return value.get_object();
  }

  static void AddText(const Json& text, boost::json::string_view name,
                      boost::json::object* parent) {
    Json& sum = (*parent)[name];
    if (!sum.is_string()) sum = "";
    sum.get_string() += text.as_string();
  }

  static void AddList(const Json& list, boost::json::string_view name,
                      boost::json::object* parent) {
    Json& sum = (*parent)[name];
    if (!sum.is_array()) sum = boost::json::array();
    for (const Json& each : list.as_array()) sum.get_array().push_back(each);
  }
};

}  // namespace tessera::openai

#endif  // TESSERA_TESTS_GATEWAY_OPENAI_STREAM_FIXTURE_H_
