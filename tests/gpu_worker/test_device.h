// The device that a test of a whole model runs on.
#ifndef TESSERA_TESTS_GPU_WORKER_TEST_DEVICE_H_
#define TESSERA_TESTS_GPU_WORKER_TEST_DEVICE_H_

#include <cstdlib>
#include <memory>

#include "glog/logging.h"
#include "gpu_worker/device/make_ops.h"

namespace tessera {

// $TESSERA_TEST_DEVICE, as --device of a worker; the CPU without it.
inline std::unique_ptr<Ops> TestDevice(int threads) {
  const char* const device = std::getenv("TESSERA_TEST_DEVICE");
  auto ops = MakeOps(device == nullptr ? "cpu" : device, threads);
  CHECK(ops.ok()) << ops.status();
  return *std::move(ops);
}

}  // namespace tessera

#endif  // TESSERA_TESTS_GPU_WORKER_TEST_DEVICE_H_
