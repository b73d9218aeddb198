#include "tests/golden/golden.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "boost/json.hpp"
#include "glog/logging.h"

namespace tessera {
namespace {

namespace json = boost::json;

json::value Read(const std::string& name) {
  const std::string path = "tests/golden/" + name;  // tests run in the workspace's root
  std::ifstream file(path);
  CHECK(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return json::parse(text.str());
}

template <typename T>
std::vector<T> Numbers(const json::value& from) {
  std::vector<T> numbers;
  for (const json::value& x : from.as_array()) numbers.push_back(x.to_number<T>());
  return numbers;
}

TopLogits Pairs(const json::value& from) {
  TopLogits top;
  for (const json::value& pair : from.as_array()) {
    top.ids.push_back(pair.at(0).to_number<uint32_t>());
    top.logits.push_back(pair.at(1).to_number<float>());
  }
  return top;
}

}  // namespace

std::vector<GoldenPrefill> ReadGoldenPrefill() {
  std::vector<GoldenPrefill> all;
  const json::value file = Read("prefill.json");
  for (const json::value& from : file.as_array()) {
    GoldenPrefill golden;
    golden.ids = Numbers<uint32_t>(from.at("ids"));
    golden.log_sum = Numbers<float>(from.at("log_sum"));
    for (size_t i = 0; i < golden.ids.size(); ++i) {
      golden.rows.push_back({Numbers<uint32_t>(from.at("top_ids").at(i)),
                             Numbers<float>(from.at("top_logits").at(i))});
    }
    all.push_back(std::move(golden));
  }
  return all;
}

std::vector<GoldenPrompt> ReadGoldenBlend() {
  std::vector<GoldenPrompt> all;
  const json::value file = Read("blend.json");
  for (const json::value& from : file.as_array()) {
    GoldenPrompt prompt;
    for (const json::value& segment : from.at("segments").as_array()) {
      prompt.segments.push_back(Numbers<uint32_t>(segment));
    }
    prompt.sink = from.at("sink").as_string();
    prompt.full_top = Pairs(from.at("full").at("top"));
    prompt.full_greedy = Numbers<uint32_t>(from.at("full").at("greedy"));
    for (const json::value& blend : from.at("blends").as_array()) {
      prompt.blends.push_back(
          {std::string(blend.at("policy").as_string()), blend.at("correction").as_bool(),
           blend.at("ratio").to_number<double>(), Numbers<int32_t>(blend.at("picked")),
           Pairs(blend.at("top")), Numbers<uint32_t>(blend.at("greedy"))});
    }
    all.push_back(std::move(prompt));
  }
  return all;
}

std::vector<GoldenFamily> ReadGoldenFamilies() {
  std::vector<GoldenFamily> all;
  const json::value file = Read("families.json");
  for (const json::value& from : file.as_array()) {
    GoldenFamily family{std::string(from.at("name").as_string()),
                        json::serialize(from.at("config")),
                        Numbers<uint32_t>(from.at("ids")),
                        {}};
    for (const json::value& row : from.at("logits").as_array()) {
      family.logits.push_back(Numbers<float>(row));
    }
    all.push_back(std::move(family));
  }
  return all;
}

std::string ModelFolder(const std::string& name) {
  const char* models = std::getenv("TESSERA_MODELS");
  std::stringstream folders(models == nullptr ? "" : models);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (std::filesystem::path(folder).filename() == name) return folder;
  }
  return "";
}

}  // namespace tessera
