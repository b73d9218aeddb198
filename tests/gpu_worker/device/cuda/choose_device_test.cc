// A program of its own: a process chooses once, before it has used a device.
#include "gpu_worker/device/cuda/choose_device.h"

#include <cstdlib>

#include "gtest/gtest.h"

namespace tessera::cuda {
namespace {

TEST(ChooseDeviceTest, OneThatIsNotThereIsAnError) {
  setenv("CUDA_VISIBLE_DEVICES", "0", 1);
  const auto beyond = ChooseDevice(7);
  EXPECT_EQ(beyond.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(beyond.status().ToString().find("CUDA_VISIBLE_DEVICES has 1"), std::string::npos)
      << beyond.status();
  unsetenv("CUDA_VISIBLE_DEVICES");
  const auto absent = ChooseDevice(99);
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kFailedPrecondition) << absent.status();
}

}  // namespace
}  // namespace tessera::cuda
