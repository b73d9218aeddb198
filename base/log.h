// What programs log: one line an event, as logfmt.
//
//   LOG_EVENT(kInfo, "worker_lost").With("worker", address).WithError(status);
//   ts=2026-11-28T19:10:00.123456Z level=info event=worker_lost worker=10.0.0.1:7601 code=...
//
// glog stays for what ends a process: CHECK and LOG(FATAL).
#ifndef TESSERA_BASE_LOG_H_
#define TESSERA_BASE_LOG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tessera {

// No event has kNone: as the least level it turns all of them off.
enum class LogLevel { kDebug, kInfo, kWarning, kError, kNone };

// "debug", "info", "warning", "error", "none".
std::string_view LogLevelName(LogLevel level);
// Their reverse. False: `name` is none of them, and `level` is left as it is.
bool ParseLogLevel(std::string_view name, LogLevel* level);

// The least level that is logged; kInfo at first. Thread-safe, at any time.
void SetLogLevel(LogLevel level);
LogLevel CurrentLogLevel();
// One level more detail (down to kDebug), or less (up to kError); returns the new level. For one
// thread at a time.
LogLevel StepLogLevel(bool more);

inline bool IsLogged(LogLevel level) { return level >= CurrentLogLevel(); }

// An event while its fields are put together; written to standard error at its end, with one write,
// so that lines of several threads, and up to a pipe's 4096 bytes of several processes, never mix.
// A line that nobody takes is lost, never waited for twice.
//
// Whatever a value holds, the line stays one line that every logfmt reader splits as it was put
// together: other than plain printable ASCII, a value is quoted, with JSON's escapes for quotes,
// backslashes, control and format characters, line and paragraph separators; bytes that are no
// UTF-8 become U+FFFD. Of a value kMaxValueBytes are shown, with "..." behind; fields that would
// make the line longer than kMaxLineBytes are left out, and cut=true says so.
//
// Secrets, and the text of prompts and answers, are never values.
class LogLine {
 public:
  static constexpr size_t kMaxValueBytes = 512;
  static constexpr size_t kMaxLineBytes = 4096;

  // event: a stable name in snake_case. suppressed: how many like it were not written (LogLimiter).
  LogLine(LogLevel level, std::string_view event, uint64_t suppressed = 0);
  ~LogLine();
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;

  // Keys are constants of the program: letters, digits and underscores.
  LogLine& With(std::string_view key, std::string_view value);
  LogLine& With(std::string_view key, const char* value) {
    return With(key, std::string_view(value));
  }
  LogLine& With(std::string_view key, const std::string& value) {
    return With(key, std::string_view(value));
  }
  LogLine& With(std::string_view key, absl::string_view value) {
    return With(key, std::string_view(value.data(), value.size()));
  }
  LogLine& With(std::string_view key, bool value) { return Add(key, value ? "true" : "false"); }
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  LogLine& With(std::string_view key, T value) {
    return Add(key, std::string_view(absl::StrCat(value)));
  }
  // In milliseconds, with microseconds behind the point; `key` should end with _ms.
  LogLine& WithMs(std::string_view key, absl::Duration value);
  // code and error of a status; nothing for OK.
  LogLine& WithError(const absl::Status& status);

 private:
  // `shown` is the value as it stands in the line.
  LogLine& Add(std::string_view key, std::string_view shown);

  std::string line_;
  bool cut_ = false;
};

// Lets the first kPerInterval of every kInterval through. Thread-safe.
class LogLimiter {
 public:
  static constexpr uint64_t kPerInterval = 10;
  static constexpr absl::Duration kInterval = absl::Seconds(10);

  // What one event is told. suppressed: how many were held back since one was let through.
  struct Verdict {
    bool admitted = false;
    uint64_t suppressed = 0;
  };
  Verdict Ask(absl::Time now);

 private:
  absl::Mutex mutex_;
  absl::Time begin_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  uint64_t admitted_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t suppressed_ ABSL_GUARDED_BY(mutex_) = 0;
};

namespace log_internal {
struct Voidify {
  void operator&(const LogLine&) {}
};
inline LogLimiter::Verdict Ask(LogLevel level, LogLimiter& limiter) {
  return IsLogged(level) ? limiter.Ask(absl::Now()) : LogLimiter::Verdict();
}
}  // namespace log_internal

// An event, to which `.With(...)` may be added. Where its level is off, nothing of that is
// evaluated. level: kDebug, kInfo, kWarning or kError.
#define LOG_EVENT(level, event)                    \
  !::tessera::IsLogged(::tessera::LogLevel::level) \
      ? (void)0                                    \
      : ::tessera::log_internal::Voidify() & ::tessera::LogLine(::tessera::LogLevel::level, event)

// The same for what a peer, a client or a broken disk can cause at any rate: this place in the
// program writes LogLimiter::kPerInterval lines an interval, and the next one says suppressed=K.
#define LOG_EVENT_LIMITED(level, event)                                             \
  for (auto verdict = ::tessera::log_internal::Ask(::tessera::LogLevel::level,      \
                                                   []() -> ::tessera::LogLimiter& { \
                                                     static auto* const limiter =   \
                                                         new ::tessera::LogLimiter; \
                                                     return *limiter;               \
                                                   }());                            \
       verdict.admitted; verdict.admitted = false)                                  \
  ::tessera::LogLine(::tessera::LogLevel::level, event, verdict.suppressed)

}  // namespace tessera

#endif  // TESSERA_BASE_LOG_H_
