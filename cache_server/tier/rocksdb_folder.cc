#include "cache_server/tier/rocksdb_folder.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

absl::Status FolderError(int error, const std::string& folder, absl::string_view what) {
  return absl::ErrnoToStatus(error, absl::StrCat("the folder ", folder, " ", what));
}

// What lies in the folder that is not ours; empty if nothing does.
absl::StatusOr<std::string> FindForeignFile(const std::string& folder) {
  std::error_code error;
  std::string foreign;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename();
    if (name == kFolderMark) return std::string();
    if (name != "lost+found") foreign = name;
  }
  if (error) return FolderError(error.value(), folder, "can not be read");
  return foreign;
}

}  // namespace

absl::Status PrepareFolder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return FolderError(error.value(), folder, "can not be made");
  ASSIGN_OR_RETURN(const std::string foreign, FindForeignFile(folder));
  if (!foreign.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the folder ", folder, " holds something else (", foreign, ", and no ",
                     kFolderMark, "): name an empty one for the pieces"));
  }
  const std::string mark = absl::StrCat(folder, "/", kFolderMark);
  // Opened for writing also when it is there: a read-only file system is found out here.
  const int fd = open(mark.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
  if (fd < 0) return FolderError(errno, folder, "can not be written");
  close(fd);
  return absl::OkStatus();
}

uint64_t FolderBytes(const std::string& folder) {
  std::error_code error;
  uint64_t bytes = 0;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code gone;  // files come and go meanwhile
    const uint64_t size = at->file_size(gone);
    if (!gone) bytes += size;
  }
  return bytes;
}

absl::StatusOr<uint64_t> FreeBytes(const std::string& path) {
  struct statvfs found;
  if (statvfs(path.c_str(), &found) != 0) return FolderError(errno, path, "can not be looked at");
  return uint64_t{found.f_bavail} * found.f_frsize;
}

}  // namespace tessera
