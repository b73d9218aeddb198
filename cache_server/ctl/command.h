// What a subcommand is, and what it works with.
#ifndef TESSERA_CACHE_SERVER_CTL_COMMAND_H_
#define TESSERA_CACHE_SERVER_CTL_COMMAND_H_

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache_server/ctl/command_line.h"
#include "cache_server/ctl/connection.h"

namespace tessera::ctl {

// One run of the program.
struct Session {
  const CommandLine& line;
  const Connection& connection;
  Interrupt& interrupt;
  bool json = false;
  std::ostream& out;  // standard output
};

// Whether all that was asked was done. `kPartly`: the output says what was not; exit code 1.
enum class Outcome { kDone, kPartly };

// The words after the subcommand.
enum class Words { kNone, kKeys, kSomeKeys };  // no words, any number of keys, at least one

struct Command {
  const char* name;
  const char* usage;    // "KEY... [--ttl=1h]"
  const char* summary;  // one line
  const char* details;  // lines; may be empty
  Words words;
  std::vector<std::string> flags;  // beside those that all have
  absl::StatusOr<Outcome> (*run)(const Session& session);
};

// All subcommands, in the order that help shows them.
const std::vector<Command>& Commands();

// Null: there is none of that name.
const Command* FindCommand(const std::string& name);

// Flags of every subcommand: where the server is, and how to print.
const std::vector<std::string>& CommonFlags();

// What `tessera_ctl help` and `tessera_ctl help COMMAND` print.
std::string Help();
std::string HelpOf(const Command& command);

// The keys that the words after the subcommand name; standard input for "-".
absl::StatusOr<std::vector<ChunkKey>> KeysOf(const Session& session);

// The bytes that stand for --tenant_salt; empty without one. INVALID_ARGUMENT: the flag was given
// without a value, which may well be an unset variable, and would mean all tenants.
absl::StatusOr<std::string> TenantOf(const Session& session);

// inspect.cc
absl::StatusOr<Outcome> RunStats(const Session& session);
absl::StatusOr<Outcome> RunList(const Session& session);
absl::StatusOr<Outcome> RunWatch(const Session& session);
// change.cc
absl::StatusOr<Outcome> RunPin(const Session& session);
absl::StatusOr<Outcome> RunUnpin(const Session& session);
absl::StatusOr<Outcome> RunRemove(const Session& session);
absl::StatusOr<Outcome> RunClear(const Session& session);
absl::StatusOr<Outcome> RunWarm(const Session& session);
absl::StatusOr<Outcome> RunFlush(const Session& session);
absl::StatusOr<Outcome> RunDrain(const Session& session);
// verify.cc
absl::StatusOr<Outcome> RunVerify(const Session& session);
// bench.cc
absl::StatusOr<Outcome> RunBench(const Session& session);

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_COMMAND_H_
