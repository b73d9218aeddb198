#include "cache_server/ctl/command.h"

#include <algorithm>
#include <iostream>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "cache_server/ctl/key_words.h"
#include "glog/logging.h"

ABSL_FLAG(std::string, tenant_salt, "",
          "Only what was stored with this salt (cache_salt of a request).");

namespace tessera::ctl {
namespace {

constexpr const char* kKeysHelp =
    "A KEY is 64 hexadecimal digits, or the first 6 or more if no other entry starts with them;\n"
    "- reads keys from standard input, one a line.\n";

constexpr const char* kListHelp =
    R"(AGE is since an entry was added, IDLE since it was last read, PINNED how long its pin lasts.
Keys are shortened unless --keys or --json is given.
)";
constexpr const char* kVerifyHelp =
    R"(damaged: bytes that are not what was stored. unreadable: listed, but did not come (damaged on
the disk, evicted meanwhile, or no memory to load it). Entries on the disk are loaded into
memory, and push others out.
)";
constexpr const char* kBenchHelp =
    R"(One piece at a time, by the client that workers use. Holds up to 8 pieces in the cache, which
may push others out, and deletes them.
)";

// name, usage, summary, details, words, flags, function: see Command.
std::vector<Command> LookingCommands() {
  return {
      {"stats",
       "[--watch=2s]",
       "sizes, counters and what is open",
       "",
       Words::kNone,
       {"watch"},
       RunStats},
      {"ls",
       "[--order=oldest|largest] [--limit=N] [--tenant_salt=S] [--keys]",
       "the entries of all tiers",
       kListHelp,
       Words::kNone,
       {"order", "limit", "tenant_salt", "keys"},
       RunList},
      {"watch", "", "print what comes and goes, until Ctrl-C", "", Words::kNone, {}, RunWatch},
      {"verify",
       "KEY...|--all [--erase]",
       "fetch entries and check every checksum",
       kVerifyHelp,
       Words::kKeys,
       {"all", "erase"},
       RunVerify},
      {"bench",
       "[--bytes=1MiB] [--layers=8] [--seconds=3]",
       "Put and Get rates over this connection",
       kBenchHelp,
       Words::kNone,
       {"bytes", "layers", "seconds", "shared_memory"},
       RunBench},
  };
}

std::vector<Command> ChangingCommands() {
  return {
      {"pin",
       "KEY... [--ttl=1h]",
       "keep entries in memory for a while",
       "Loads those that lie on the disk. Pinning again sets a new time.\n",
       Words::kSomeKeys,
       {"ttl"},
       RunPin},
      {"unpin", "KEY...", "end pins", "", Words::kSomeKeys, {}, RunUnpin},
      {"rm",
       "KEY...",
       "delete entries, in every tier, pinned or not",
       "",
       Words::kSomeKeys,
       {},
       RunRemove},
      {"clear",
       "--yes [--tenant_salt=S]",
       "delete all entries, or all of one tenant",
       "",
       Words::kNone,
       {"yes", "tenant_salt"},
       RunClear},
      {"warm",
       "KEY...|--all",
       "load entries from the disk into memory",
       "",
       Words::kKeys,
       {"all"},
       RunWarm},
      {"flush",
       "[KEY...]",
       "make what is queued for the disk, or these entries, durable",
       "",
       Words::kKeys,
       {},
       RunFlush},
      {"drain",
       "[--resume]",
       "take no more work, wait for what is open",
       "Waits up to --timeout. --resume takes work again.\n",
       Words::kNone,
       {"resume"},
       RunDrain},
  };
}

std::string FlagLines(const std::vector<std::string>& names) {
  std::string lines;
  for (const std::string& name : names) {
    const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    CHECK(flag != nullptr) << name;
    const std::string value = flag->DefaultValue();
    absl::StrAppend(&lines, "  --", name, value.empty() ? "" : "=", value, "\n      ", flag->Help(),
                    "\n");
  }
  return lines;
}

}  // namespace

const std::vector<Command>& Commands() {
  static const auto* commands = new std::vector<Command>([] {
    std::vector<Command> all = LookingCommands();
    const std::vector<Command> changing = ChangingCommands();
    all.insert(all.end(), changing.begin(), changing.end());
    return all;
  }());
  return *commands;
}

const Command* FindCommand(const std::string& name) {
  for (const Command& command : Commands()) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

const std::vector<std::string>& CommonFlags() {
  static const auto* flags =
      new std::vector<std::string>{"server", "ca", "cert", "key", "token_file", "timeout", "json"};
  return *flags;
}

std::string Help() {
  std::string help =
      "usage: tessera_ctl COMMAND [FLAG...]\n"
      "Looks into a running cache server of Tessera, and changes what it keeps.\n\n";
  for (const Command& command : Commands()) {
    absl::StrAppendFormat(&help, "  %-7s %s\n", command.name, command.summary);
  }
  absl::StrAppend(&help, "  help    this, or of one command: tessera_ctl help ls\n\n",
                  "Flags of all commands:\n", FlagLines(CommonFlags()),
                  "\nExit code: 0, 1 (no answer, a refusal, or not all could be done), 2 (bad "
                  "command line).\n");
  return help;
}

std::string HelpOf(const Command& command) {
  std::string help = absl::StrCat("usage: tessera_ctl ", command.name, " ", command.usage, "\n",
                                  "Does: ", command.summary, ".\n", command.details);
  if (command.words != Words::kNone) absl::StrAppend(&help, kKeysHelp);
  if (!command.flags.empty()) absl::StrAppend(&help, "\n", FlagLines(command.flags));
  absl::StrAppend(&help, "\n`tessera_ctl help` shows the flags that all commands have.\n");
  return help;
}

absl::StatusOr<std::vector<ChunkKey>> KeysOf(const Session& session) {
  ASSIGN_OR_RETURN(
      const std::vector<std::string> words,
      ReadKeyWords({session.line.words.begin() + 1, session.line.words.end()}, std::cin));
  return ResolveKeys(session.connection, words);
}

absl::StatusOr<std::string> TenantOf(const Session& session) {
  const std::string salt = absl::GetFlag(FLAGS_tenant_salt);
  if (!session.line.Has("tenant_salt")) return std::string();
  if (salt.empty()) {
    return absl::InvalidArgumentError(
        "--tenant_salt is empty: give the salt, or leave the flag out to mean all tenants");
  }
  return std::string(MakeTenant(salt).AsBytes());
}

}  // namespace tessera::ctl
