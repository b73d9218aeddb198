#include "base/log.h"

#include <errno.h>
#include <unistd.h>
#include <utf8proc.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"

namespace tessera {
namespace {

constexpr std::string_view kNames[] = {"debug", "info", "warning", "error", "none"};
constexpr std::string_view kCut = " cut=true\n";

std::atomic<LogLevel> least_level = LogLevel::kInfo;

bool IsPlain(char c) { return c > ' ' && c <= '~' && c != '"' && c != '=' && c != '\\'; }

// What could end a line, move a terminal's cursor or turn its text around.
bool IsShown(utf8proc_int32_t point) {
  switch (utf8proc_category(point)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

void AppendEscaped(utf8proc_int32_t point, std::string* out) {
  if (point < 0x10000) {
    absl::StrAppendFormat(out, "\\u%04x", point);
    return;
  }
  const utf8proc_int32_t rest = point - 0x10000;
  absl::StrAppendFormat(out, "\\u%04x\\u%04x", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff));
}

// Appends the first character of `text`, and returns how many bytes that was.
size_t AppendFirst(std::string_view text, std::string* out) {
  if (text[0] == '"' || text[0] == '\\') {
    out->append({'\\', text[0]});
    return 1;
  }
  if (text[0] == '\n' || text[0] == '\t' || text[0] == '\r') {
    out->append({'\\', text[0] == '\n' ? 'n' : text[0] == '\t' ? 't' : 'r'});
    return 1;
  }
  utf8proc_int32_t point = 0;
  const utf8proc_ssize_t bytes =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                       static_cast<utf8proc_ssize_t>(text.size()), &point);
  if (bytes <= 0) {
    out->append("\xef\xbf\xbd");  // U+FFFD
    return 1;
  }
  if (IsShown(point)) {
    out->append(text.substr(0, static_cast<size_t>(bytes)));
  } else {
    AppendEscaped(point, out);
  }
  return static_cast<size_t>(bytes);
}

// At most kMaxValueBytes of it: never half a character, which the next byte's high bits tell.
std::string_view Bounded(std::string_view value) {
  if (value.size() <= LogLine::kMaxValueBytes) return value;
  size_t end = LogLine::kMaxValueBytes;
  while (end > LogLine::kMaxValueBytes - 4 && (value[end] & 0xc0) == 0x80) --end;
  return value.substr(0, end);
}

std::string Quoted(std::string_view value) {
  std::string_view left = Bounded(value);
  const bool is_whole = left.size() == value.size();
  std::string quoted = "\"";
  while (!left.empty()) left.remove_prefix(AppendFirst(left, &quoted));
  quoted.append(is_whole ? "\"" : "...\"");
  return quoted;
}

void Write(std::string_view line) {
  while (!line.empty()) {
    const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    line.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

std::string_view LogLevelName(LogLevel level) { return kNames[static_cast<size_t>(level)]; }

bool ParseLogLevel(std::string_view name, LogLevel* level) {
  const auto* const found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames)) return false;
  *level = static_cast<LogLevel>(found - std::begin(kNames));
  return true;
}

void SetLogLevel(LogLevel level) { least_level.store(level, std::memory_order_relaxed); }

LogLevel CurrentLogLevel() { return least_level.load(std::memory_order_relaxed); }

LogLevel StepLogLevel(bool more) {
  const int next = static_cast<int>(CurrentLogLevel()) + (more ? -1 : 1);
  const auto level = static_cast<LogLevel>(
      std::clamp(next, static_cast<int>(LogLevel::kDebug), static_cast<int>(LogLevel::kError)));
  SetLogLevel(level);
  return level;
}

LogLine::LogLine(LogLevel level, std::string_view event, uint64_t suppressed)
    : line_(absl::FormatTime("ts=%Y-%m-%d%ET%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone())) {
  line_.append(" level=").append(LogLevelName(level)).append(" event=").append(event);
  if (suppressed > 0) With("suppressed", suppressed);
}

LogLine::~LogLine() {
  line_.append(cut_ ? kCut : "\n");
  Write(line_);
}

LogLine& LogLine::With(std::string_view key, std::string_view value) {
  const bool plain = !value.empty() && value.size() <= kMaxValueBytes &&
                     std::all_of(value.begin(), value.end(), IsPlain);
  return plain ? Add(key, value) : Add(key, Quoted(value));
}

LogLine& LogLine::WithMs(std::string_view key, absl::Duration value) {
  return Add(key, absl::StrFormat("%.3f", absl::ToDoubleMilliseconds(value)));
}

LogLine& LogLine::WithError(const absl::Status& status) {
  if (status.ok()) return *this;
  return With("code", absl::StatusCodeToString(status.code())).With("error", status.message());
}

LogLimiter::Verdict LogLimiter::Ask(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (now - begin_ >= kInterval) {
    begin_ = now;
    admitted_ = 0;
  }
  if (admitted_ == kPerInterval) {
    ++suppressed_;
    return {};
  }
  ++admitted_;
  return {.admitted = true, .suppressed = std::exchange(suppressed_, 0)};
}

LogLine& LogLine::Add(std::string_view key, std::string_view shown) {
  if (line_.size() + key.size() + shown.size() + 2 + kCut.size() > kMaxLineBytes) {
    cut_ = true;
  } else {
    line_.append(" ").append(key).append("=").append(shown);
  }
  return *this;
}

}  // namespace tessera
