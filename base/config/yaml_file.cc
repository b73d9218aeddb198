#include "base/config/yaml_file.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <exception>
#include <map>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/config/text.h"

namespace tessera::config {
namespace {

constexpr int kMostDepth = 16;
constexpr size_t kMostErrors = 20;

// Whether the quoted text that begins `text` ends: yaml-cpp takes the end of the file for it.
bool IsClosed(absl::string_view text) {
  const char quote = text[0];
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '\\' && quote == '"') {
      ++i;
    } else if (text[i] == quote) {
      // Two single quotes stand for one.
      if (quote == '"' || i + 1 == text.size() || text[i + 1] != quote) return true;
      ++i;
    }
  }
  return false;
}

// What a parser's events say, as entries. Depth 1 is the map of options: its scalars are names and
// values in turn.
class EntryBuilder final : public YAML::EventHandler {
 public:
  // `text` is what is parsed.
  EntryBuilder(absl::string_view text, YamlFile* file) : text_(text), file_(*file) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    CheckPlain(mark, "?", anchor);
    OnLeaf(mark, YamlEntry::Kind::kNull, {});
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Error(mark, "'*' makes an alias, which is not read here: write the value again, or quote it");
    OnLeaf(mark, YamlEntry::Kind::kOther, {});
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    CheckPlain(mark, tag, anchor);
    const absl::string_view rest = text_.substr(std::min<size_t>(mark.pos, text_.size()));
    const bool has_quote = !rest.empty() && (rest[0] == '\'' || rest[0] == '"');
    if (has_quote && !IsClosed(rest)) {
      Error(mark, absl::StrCat("the quote has no end: write ", rest.substr(0, 1), " behind it"));
    }
    OnLeaf(mark, YamlEntry::Kind::kValue, {value, tag == "!"});
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    CheckPlain(mark, tag, anchor);
    Enter(mark, YamlEntry::Kind::kList);
  }
  void OnSequenceEnd() override { Leave(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    CheckPlain(mark, tag, anchor);
    Enter(mark, YamlEntry::Kind::kOther);
  }
  void OnMapEnd() override { Leave(); }

  void Error(const YAML::Mark& mark, absl::string_view what) {
    if (file_.errors.size() >= kMostErrors) return;
    file_.errors.push_back(absl::StrCat(mark.is_null() ? 1 : mark.line + 1, ": ", what));
  }

 private:
  // "?" and "!" are what the parser says of plain and of quoted text without a tag.
  void CheckPlain(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != 0) {
      Error(mark, "'&' makes an anchor, which is not read here: take it away, or quote the value");
    }
    if (!tag.empty() && tag != "?" && tag != "!") {
      Error(mark, "'!' makes a tag, which is not read here: take it away, or quote the value");
    }
  }

  void OnLeaf(const YAML::Mark& mark, YamlEntry::Kind kind, YamlValue value) {
    if (no_map_) return;
    if (depth_ == 0) {
      if (kind != YamlEntry::Kind::kNull)
        Error(mark, "a value without a name: write 'name: value'");
    } else if (depth_ == 1 && !has_name_) {
      SetName(mark, kind, std::move(value.text));
    } else if (depth_ == 1) {
      Add(kind, std::move(value));
      has_name_ = false;
    } else if (depth_ == 2 && file_.entries.back().kind == YamlEntry::Kind::kList) {
      Add(kind == YamlEntry::Kind::kValue ? YamlEntry::Kind::kList : YamlEntry::Kind::kOther,
          std::move(value));
    }
  }

  void SetName(const YAML::Mark& mark, YamlEntry::Kind kind, std::string name) {
    has_name_ = true;
    file_.entries.push_back({name, mark.line + 1, YamlEntry::Kind::kNull, {}});
    if (kind != YamlEntry::Kind::kValue) {
      Error(mark, "a value has no name: write 'name: value'");
      return;
    }
    const auto [first, is_first] = lines_.emplace(name, mark.line + 1);
    if (is_first) return;
    Error(mark, absl::StrCat(Quoted(name), " is there twice, first on line ", first->second,
                             ": take one away"));
  }

  void Add(YamlEntry::Kind kind, YamlValue value) {
    YamlEntry& entry = file_.entries.back();
    entry.kind = kind;
    if (kind == YamlEntry::Kind::kValue || kind == YamlEntry::Kind::kList) {
      entry.values.push_back(std::move(value));
    }
  }

  void Enter(const YAML::Mark& mark, YamlEntry::Kind kind) {
    if (depth_ == 0 && kind == YamlEntry::Kind::kList) {
      no_map_ = true;
      Error(mark, "a list stands where options are expected: write 'name: value' lines");
    }
    if (depth_ == 1 && !has_name_ && !no_map_) SetName(mark, kind, "");
    if (depth_ == 1 && !no_map_) file_.entries.back().kind = kind;
    if (depth_ == 2 && !no_map_) file_.entries.back().kind = YamlEntry::Kind::kOther;
    if (++depth_ == kMostDepth + 1) Error(mark, absl::StrCat("nested deeper than ", kMostDepth));
  }

  void Leave() {
    if (--depth_ == 1) has_name_ = false;
  }

  const absl::string_view text_;
  YamlFile& file_;
  int depth_ = 0;          // of maps and lists that are open
  bool no_map_ = false;    // the whole file is a list
  bool has_name_ = false;  // at depth 1: the next event is its value
  std::map<std::string, int> lines_;
};

// yaml-cpp reports by exceptions; they end here.
void Parse(absl::string_view text, EntryBuilder* builder) {
  std::istringstream stream{std::string(text)};
  try {
    YAML::Parser parser(stream);
    if (parser.HandleNextDocument(*builder) && parser.HandleNextDocument(*builder)) {
      builder->Error(YAML::Mark(), "a second document begins ('---'): keep one");
    }
  } catch (const YAML::Exception& error) {
    builder->Error(error.mark,
                   absl::StrCat("not YAML, column ", error.mark.column + 1, ": ", error.msg));
  } catch (const std::exception& error) {
    builder->Error(YAML::Mark(), absl::StrCat("not YAML: ", error.what()));
  }
}

}  // namespace

YamlFile ReadYaml(absl::string_view text) {
  YamlFile file;
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");  // an editor's byte order mark
  if (text.size() > kMostYamlBytes) {
    file.errors.push_back("1: the file is larger than 1 MiB: take away what is no option");
  } else if (!IsPlainUtf8(text)) {
    file.errors.push_back("1: the file is not UTF-8, or has a zero byte");
  } else {
    EntryBuilder builder(text, &file);
    Parse(text, &builder);
  }
  return file;
}

}  // namespace tessera::config
