#include "cache_server/chunk/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(SharedMemoryTest, WhatIsWrittenIsSeenThroughAnotherMapping) {
  const auto memory = SharedMemory::Create(10000, false);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ((*memory)->size(), 12288u);
  EXPECT_EQ((*memory)->page_bytes(), 4096u);
  EXPECT_EQ((*memory)->mutable_data()[12287], std::byte{0});
  const auto attached = SharedMemory::Attach(dup((*memory)->fd()));
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ((*attached)->size(), 12288u);
  EXPECT_EQ((*attached)->page_bytes(), 4096u);
  EXPECT_EQ((*attached)->mutable_data(), nullptr);
  EXPECT_NE((*attached)->data(), (*memory)->data());
  // Also what is written after it was attached.
  std::memcpy((*memory)->mutable_data() + 9000, "bytes", 5);
  EXPECT_EQ(std::memcmp((*attached)->data() + 9000, "bytes", 5), 0);
}

TEST(SharedMemoryTest, NobodyElseCanWriteToIt) {
  const auto memory = *SharedMemory::Create(8192, false);
  EXPECT_EQ(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(write(memory->fd(), "x", 1), -1);
  EXPECT_EQ(ftruncate(memory->fd(), 4096), -1);
  EXPECT_EQ(ftruncate(memory->fd(), 16384), -1);
  // Nor may a mapping for reading be turned into one for writing.
  const auto attached = *SharedMemory::Attach(dup(memory->fd()));
  auto* page = const_cast<std::byte*>(attached->data());
  EXPECT_EQ(mprotect(page, 4096, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  memory->mutable_data()[0] = std::byte{1};
  EXPECT_EQ(attached->data()[0], std::byte{1});
}

TEST(SharedMemoryTest, AnotherProcessReadsItAfterItsOwnerForgotIt) {
  auto memory = *SharedMemory::Create(4096, false);
  memory->mutable_data()[7] = std::byte{42};
  const int fd = dup(memory->fd());
  memory.reset();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto attached = SharedMemory::Attach(fd);
    _exit(attached.ok() ? static_cast<int>((*attached)->data()[7]) : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 42);
  close(fd);
}

TEST(SharedMemoryTest, RefusesWhatCouldShrinkUnderAReader) {
  const int unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(unsealed, 4096), 0);
  const int again = dup(unsealed);
  EXPECT_EQ(SharedMemory::Attach(unsealed).status().code(), absl::StatusCode::kInvalidArgument);
  // Taken over and closed, also when it fails.
  EXPECT_EQ(fcntl(unsealed, F_GETFD), -1);
  ASSERT_EQ(fcntl(again, F_ADD_SEALS, F_SEAL_GROW), 0);
  EXPECT_EQ(SharedMemory::Attach(dup(again)).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(fcntl(again, F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_TRUE(SharedMemory::Attach(again).ok());
}

TEST(SharedMemoryTest, RefusesOtherFiles) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(ftruncate(fileno(file), 4096), 0);
  for (const int fd : {dup(fileno(file)), open("/dev/zero", O_RDONLY), -1}) {
    EXPECT_EQ(SharedMemory::Attach(fd).status().code(), absl::StatusCode::kInvalidArgument);
  }
  std::fclose(file);
  const int empty = memfd_create("empty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(fcntl(empty, F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_EQ(SharedMemory::Attach(empty).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SharedMemoryTest, ImpossibleSizes) {
  EXPECT_EQ(SharedMemory::Create(0, false).status().code(), absl::StatusCode::kInvalidArgument);
  for (const uint64_t bytes : {uint64_t{1} << 60, UINT64_MAX}) {
    for (const bool huge : {false, true}) {
      const absl::Status status = SharedMemory::Create(bytes, huge).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    }
  }
}

// Whatever the system gives, it is memory.
TEST(SharedMemoryTest, HugePagesAreAWish) {
  const auto memory = SharedMemory::Create(uint64_t{5} << 20, true);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_GE((*memory)->size(), uint64_t{5} << 20);
  EXPECT_EQ((*memory)->size() % (*memory)->page_bytes(), 0u);
  (*memory)->mutable_data()[(*memory)->size() - 1] = std::byte{3};
  const auto attached = SharedMemory::Attach(dup((*memory)->fd()));
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ((*attached)->page_bytes(), (*memory)->page_bytes());
  EXPECT_EQ((*attached)->data()[(*attached)->size() - 1], std::byte{3});
}

TEST(SharedMemoryTest, Contains) {
  const auto memory = *SharedMemory::Create(4096, false);
  const std::byte* data = memory->data();
  EXPECT_TRUE(memory->Contains(data, 4096));
  EXPECT_TRUE(memory->Contains(data + 4096, 0));
  EXPECT_FALSE(memory->Contains(data + 1, 4096));
  EXPECT_FALSE(memory->Contains(data - 1, 1));
  EXPECT_FALSE(memory->Contains(data, UINT64_MAX));
}

}  // namespace
}  // namespace tessera
