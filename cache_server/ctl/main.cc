// tessera_ctl: looks into a running cache server and changes what it keeps. `tessera_ctl help`
// lists its commands.
#include <grpc/support/log.h>
#include <signal.h>

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "cache_server/ctl/command.h"
#include "cache_server/ctl/command_line.h"
#include "cache_server/ctl/connection.h"
#include "cache_server/ctl/interrupt.h"

ABSL_FLAG(std::string, server, "127.0.0.1:7600", "The cache server: host:port or unix:/path.");
ABSL_FLAG(std::string, ca, "", "TLS: file with the certificates to trust.");
ABSL_FLAG(std::string, cert, "", "TLS: file with this client's own certificate; goes with --key.");
ABSL_FLAG(std::string, key, "", "TLS: file with the key of --cert.");
ABSL_FLAG(std::string, token_file, "", "File whose first line is the server's token.");
ABSL_FLAG(absl::Duration, timeout, absl::Seconds(10), "Most time that a call may take.");
ABSL_FLAG(bool, json, false, "Print JSON, with keys in full and sizes in bytes.");

namespace tessera::ctl {
namespace {

constexpr int kFailed = 1;
constexpr int kBadCommandLine = 2;
constexpr int kInterrupted = 130;

int Fail(const absl::Status& status) {
  std::cerr << "tessera_ctl: " << status.message() << "\n";
  return absl::IsInvalidArgument(status) ? kBadCommandLine : kFailed;
}

CacheAddress AddressFromFlags() {
  return {.address = absl::GetFlag(FLAGS_server),
          .ca_file = absl::GetFlag(FLAGS_ca),
          .cert_file = absl::GetFlag(FLAGS_cert),
          .key_file = absl::GetFlag(FLAGS_key),
          .token_file = absl::GetFlag(FLAGS_token_file)};
}

absl::Status CheckWords(const Command& command, const CommandLine& line) {
  const bool any = line.words.size() > 1;
  if (command.words == Words::kNone && any) {
    return absl::InvalidArgumentError(absl::StrCat(command.name, " takes no ", line.words[1],
                                                   "; usage: tessera_ctl ", command.name, " ",
                                                   command.usage));
  }
  if (command.words == Words::kSomeKeys && !any) {
    return absl::InvalidArgumentError(absl::StrCat("which keys? usage: tessera_ctl ", command.name,
                                                   " ", command.usage,
                                                   "; `tessera_ctl ls` shows keys"));
  }
  return absl::OkStatus();
}

absl::Status SetAndCheckFlags(const Command& command, const CommandLine& line) {
  std::vector<std::string> allowed = command.flags;
  allowed.insert(allowed.end(), CommonFlags().begin(), CommonFlags().end());
  RETURN_IF_ERROR(SetFlags(line, allowed));
  if (absl::GetFlag(FLAGS_timeout) <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("--timeout must be more than 0, such as --timeout=10s");
  }
  return absl::OkStatus();
}

absl::StatusOr<const Command*> CommandOf(const CommandLine& line, size_t word) {
  const Command* command = FindCommand(line.words[word]);
  if (command != nullptr) return command;
  return absl::InvalidArgumentError(
      absl::StrCat("no command ", line.words[word], "; `tessera_ctl help` names them"));
}

absl::StatusOr<Outcome> RunCommand(const Command& command, const CommandLine& line,
                                   Interrupt* interrupt) {
  RETURN_IF_ERROR(CheckWords(command, line));
  RETURN_IF_ERROR(SetAndCheckFlags(command, line));
  ASSIGN_OR_RETURN(const std::unique_ptr<Connection> connection,
                   Connection::Make(AddressFromFlags(), absl::GetFlag(FLAGS_timeout), interrupt));
  return command.run({line, *connection, *interrupt, absl::GetFlag(FLAGS_json), std::cout});
}

// `help`, `help COMMAND`, and --help anywhere.
int PrintHelp(const CommandLine& line) {
  const size_t word = !line.words.empty() && line.words[0] == "help" ? 1 : 0;
  if (line.words.size() <= word) {
    std::cout << Help();
    return 0;
  }
  const absl::StatusOr<const Command*> command = CommandOf(line, word);
  if (!command.ok()) return Fail(command.status());
  std::cout << HelpOf(**command);
  return 0;
}

int Run(const std::vector<std::string>& arguments) {
  const absl::StatusOr<CommandLine> line = SplitCommandLine(arguments);
  if (!line.ok()) return Fail(line.status());
  if (line->help || (!line->words.empty() && line->words[0] == "help")) return PrintHelp(*line);
  if (line->words.empty()) {
    return Fail(absl::InvalidArgumentError("which command? `tessera_ctl help` names them"));
  }
  const absl::StatusOr<const Command*> command = CommandOf(*line, 0);
  if (!command.ok()) return Fail(command.status());
  Interrupt interrupt;
  const absl::StatusOr<Outcome> outcome = RunCommand(**command, *line, &interrupt);
  if (!outcome.ok() && interrupt.requested()) return kInterrupted;
  if (!outcome.ok()) return Fail(outcome.status());
  if (!std::cout.flush()) return Fail(absl::DataLossError("the output could not be written"));
  return *outcome == Outcome::kDone ? 0 : kFailed;
}

}  // namespace
}  // namespace tessera::ctl

int main(int argc, char** argv) {
  tessera::StartProcess(1, argv);
  // `tessera_ctl ls | head` ends with head.
  signal(SIGPIPE, SIG_DFL);
  // What goes wrong comes back as a status, and is said once.
  tessera::SetLogLevel(tessera::LogLevel::kNone);
  gpr_set_log_function([](gpr_log_func_args*) {});
  return tessera::ctl::Run({argv + 1, argv + argc});
}
