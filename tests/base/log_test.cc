#include "base/log.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "boost/json/parse.hpp"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using Fields = std::map<std::string, std::string>;

// Reads a line as any logfmt reader does: key=bare or key="JSON string". Fails the test where it
// cannot.
Fields Parse(std::string_view line) {
  Fields fields;
  size_t at = 0;
  while (at < line.size()) {
    const size_t equals = line.find('=', at);
    EXPECT_NE(equals, line.npos) << line;
    if (equals == line.npos) return fields;
    const std::string key(line.substr(at, equals - at));
    EXPECT_FALSE(key.empty()) << line;
    size_t end = equals + 1;
    std::string value;
    if (end < line.size() && line[end] == '"') {
      for (++end; end < line.size() && line[end] != '"'; ++end) {
        if (line[end] == '\\') ++end;
      }
      ++end;
      const std::string_view quoted = line.substr(equals + 1, end - equals - 1);
      value = boost::json::parse({quoted.data(), quoted.size()}).as_string().c_str();
    } else {
      end = std::min(line.find(' ', end), line.size());
      value = line.substr(equals + 1, end - equals - 1);
      EXPECT_FALSE(value.empty()) << line;
    }
    EXPECT_TRUE(fields.emplace(key, value).second) << key << " twice in " << line;
    EXPECT_TRUE(end == line.size() || line[end] == ' ') << line;
    at = end + 1;
  }
  return fields;
}

template <typename Work>
std::string Logged(Work work) {
  testing::internal::CaptureStderr();
  work();
  return testing::internal::GetCapturedStderr();
}

// The one line of `work`, without its end.
template <typename Work>
std::string OneLine(Work work) {
  std::string text = Logged(work);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_TRUE(absl::EndsWith(text, "\n"));
  if (!text.empty()) text.pop_back();
  return text;
}

class LogTest : public testing::Test {
 protected:
  ~LogTest() override { SetLogLevel(LogLevel::kInfo); }
};

TEST_F(LogTest, ALineHasTimeLevelEventAndFieldsInTheOrderGiven) {
  const std::string line = OneLine([] {
    LOG_EVENT(kWarning, "worker_lost")
        .With("worker", "10.0.0.1:7601")
        .With("tries", 3)
        .With("share", 0.25)
        .With("ready", false)
        .WithMs("waited_ms", absl::Microseconds(1500))
        .With("name", std::string("two words"))
        .WithError(absl::UnavailableError("it \"left\""));
  });
  EXPECT_THAT(line, testing::MatchesRegex(
                        "ts=20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9:]+\\.[0-9]+Z level=warning "
                        "event=worker_lost worker=10.0.0.1:7601 tries=3 share=0.25 ready=false "
                        "waited_ms=1.500 name=\"two words\" code=UNAVAILABLE "
                        "error=\"it \\\\\"left\\\\\"\""));
}

TEST_F(LogTest, AnOkStatusAddsNothing) {
  const Fields fields =
      Parse(OneLine([] { LOG_EVENT(kInfo, "done").WithError(absl::OkStatus()); }));
  EXPECT_EQ(fields.size(), 3u);
}

TEST_F(LogTest, HostileValuesComeBackAsTheyWere) {
  const std::vector<std::string> values = {
      "",
      " ",
      "=",
      "a=b",
      "\"",
      "\\",
      "\\\"",
      "x event=forged",
      "x\" level=error event=forged \"",
      "two\nlines",
      "two\r\nlines\t\v\f",
      "\x1b[31mred\x1b[0m",
      "\x7f",
      "\xc2\x85next line",
      "\xe2\x80\xa8line separator\xe2\x80\xa9",
      "\xe2\x80\xaeright to left",
      "\xf3\xa0\x80\x81tag",
      "Grüße, 世界 🦊",
  };
  for (const std::string& value : values) {
    const std::string line =
        OneLine([&] { LOG_EVENT(kInfo, "hostile").With("value", value).With("last", 1); });
    const Fields fields = Parse(line);
    EXPECT_EQ(fields.at("value"), value) << line;
    EXPECT_EQ(fields.at("event"), "hostile");
    EXPECT_EQ(fields.at("last"), "1");
    for (const char c : line) EXPECT_FALSE(std::iscntrl(static_cast<unsigned char>(c))) << line;
    // What terminals and readers of lines take for more than a character.
    for (const char* mark : {"\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xae"}) {
      EXPECT_FALSE(absl::StrContains(line, mark)) << line;
    }
  }
}

TEST_F(LogTest, ZeroBytesAndBytesThatAreNoUtf8AreMadeHarmless) {
  const std::string line = OneLine([] {
    LOG_EVENT(kInfo, "bytes")
        .With("zero", std::string_view("a\0b", 3))
        .With("broken", "\xff\xc3(\xe2\x80");
  });
  EXPECT_TRUE(absl::StrContains(line, "zero=\"a\\u0000b\"")) << line;
  EXPECT_EQ(Parse(line).at("broken"), "\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_F(LogTest, ValuesAreBoundedAndNeverCutWithinACharacter) {
  for (size_t before = 0; before < 4; ++before) {
    std::string value(before, 'x');
    while (value.size() < 100'000) value += "🦊";
    const std::string shown =
        Parse(OneLine([&] { LOG_EVENT(kInfo, "long").With("value", value); })).at("value");
    EXPECT_LE(shown.size(), LogLine::kMaxValueBytes + 3);
    EXPECT_TRUE(absl::EndsWith(shown, "🦊...")) << shown;
  }
  const std::string plain(10'000, 'x');
  EXPECT_EQ(Parse(OneLine([&] { LOG_EVENT(kInfo, "long").With("value", plain); })).at("value"),
            absl::StrCat(plain.substr(0, LogLine::kMaxValueBytes), "..."));
}

TEST_F(LogTest, LinesAreBoundedAndSayThatTheyWereCut) {
  const std::string line = OneLine([] {
    LogLine long_line(LogLevel::kInfo, "long");
    // Every byte of these takes six.
    for (int i = 0; i < 20; ++i) long_line.With(absl::StrCat("k", i), std::string(400, '\x01'));
    long_line.With("last", 1);
  });
  EXPECT_LT(line.size(), LogLine::kMaxLineBytes);
  const Fields fields = Parse(line);
  EXPECT_EQ(fields.at("cut"), "true");
  EXPECT_EQ(fields.at("last"), "1");  // small ones still fit
  EXPECT_EQ(fields.count("k0"), 1u);
  EXPECT_EQ(fields.count("k19"), 0u);
}

TEST_F(LogTest, NothingIsEvaluatedWhileALevelIsOff) {
  int evaluated = 0;
  const auto value = [&evaluated] { return ++evaluated; };
  for (const LogLevel level :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    SetLogLevel(level);
    evaluated = 0;
    const std::string text = Logged([&] {
      LOG_EVENT(kDebug, "one").With("value", value());
      LOG_EVENT(kInfo, "two").With("value", value());
      LOG_EVENT_LIMITED(kWarning, "three").With("value", value());
      LOG_EVENT_LIMITED(kError, "four").With("value", value());
    });
    const int lines = 4 - static_cast<int>(level);
    EXPECT_EQ(evaluated, lines);
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), lines) << text;
    EXPECT_EQ(absl::StrContains(text, "event=two"), level <= LogLevel::kInfo);
  }
}

TEST_F(LogTest, LevelsHaveNamesAndStepsThatEnd) {
  for (const char* name : {"debug", "info", "warning", "error", "none"}) {
    LogLevel level = LogLevel::kInfo;
    ASSERT_TRUE(ParseLogLevel(name, &level));
    EXPECT_EQ(LogLevelName(level), name);
  }
  LogLevel level = LogLevel::kError;
  EXPECT_FALSE(ParseLogLevel("verbose", &level));
  EXPECT_EQ(level, LogLevel::kError);
  SetLogLevel(LogLevel::kNone);
  EXPECT_FALSE(IsLogged(LogLevel::kError));
  SetLogLevel(LogLevel::kInfo);
  EXPECT_EQ(StepLogLevel(true), LogLevel::kDebug);
  EXPECT_EQ(StepLogLevel(true), LogLevel::kDebug);
  EXPECT_EQ(StepLogLevel(false), LogLevel::kInfo);
  EXPECT_EQ(StepLogLevel(false), LogLevel::kWarning);
  EXPECT_EQ(StepLogLevel(false), LogLevel::kError);
  EXPECT_EQ(StepLogLevel(false), LogLevel::kError);
  EXPECT_EQ(CurrentLogLevel(), LogLevel::kError);
}

TEST_F(LogTest, EveryThreadsLinesStayWhole) {
  constexpr int kThreads = 8;
  constexpr int kLines = 200;
  const std::string text = Logged([] {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([t] {
        for (int i = 0; i < kLines; ++i) {
          LOG_EVENT(kInfo, "line")
              .With("thread", t)
              .With("i", i)
              .With("pad", std::string(300, '"'));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  std::vector<int> next(kThreads, 0);
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), size_t{kThreads * kLines});
  for (const std::string& line : lines) {
    const Fields fields = Parse(line);
    EXPECT_EQ(fields.at("i"), absl::StrCat(next[std::stoi(fields.at("thread"))]++));
    EXPECT_EQ(fields.at("pad").size(), 300u);
  }
}

TEST_F(LogTest, ALimiterLetsSoManyThroughAndCountsTheRest) {
  LogLimiter limiter;
  const absl::Time start = absl::Now();
  for (uint64_t i = 0; i < LogLimiter::kPerInterval; ++i) {
    const auto verdict = limiter.Ask(start);
    EXPECT_TRUE(verdict.admitted);
    EXPECT_EQ(verdict.suppressed, 0u);
  }
  for (int i = 0; i < 25; ++i) EXPECT_FALSE(limiter.Ask(start + absl::Seconds(1)).admitted);
  const auto next = limiter.Ask(start + LogLimiter::kInterval);
  EXPECT_TRUE(next.admitted);
  EXPECT_EQ(next.suppressed, 25u);
  EXPECT_EQ(limiter.Ask(start + LogLimiter::kInterval).suppressed, 0u);
}

TEST_F(LogTest, EachPlaceHasALimitOfItsOwn) {
  const std::string text = Logged([] {
    for (int i = 0; i < 1000; ++i) LOG_EVENT_LIMITED(kWarning, "flood").With("i", i);
    for (int i = 0; i < 3; ++i) LOG_EVENT_LIMITED(kWarning, "trickle").With("i", i);
  });
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  // Twice as many only if a slow machine takes longer than an interval.
  EXPECT_GE(lines.size(), LogLimiter::kPerInterval + 3);
  EXPECT_LE(lines.size(), 2 * LogLimiter::kPerInterval + 3);
  EXPECT_TRUE(absl::StrContains(lines.back(), "event=trickle i=2"));
}

}  // namespace
}  // namespace tessera
