#include "base/request_buckets.h"

namespace tessera {

const std::vector<double>& FirstTokenBuckets() {
  static const std::vector<double> buckets = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08,
                                              0.1,   0.25,   0.5,   0.75, 1,    2.5,  5,    7.5,
                                              10,    20,     40,    80,   160,  640};
  return buckets;
}

const std::vector<double>& NextTokenBuckets() {
  static const std::vector<double> buckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075,
                                              0.1,   0.15,   0.2,   0.3,  0.4,   0.5,  0.75,
                                              1,     2.5,    5,     10,   20,    40};
  return buckets;
}

const std::vector<double>& RequestBuckets() {
  static const std::vector<double> buckets = {0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,
                                              1.5,   2,    2.5,  5,   10,  15,  20,  30,
                                              40,    50,   60,   120, 240, 480, 960};
  return buckets;
}

const std::vector<double>& TokenBuckets() {
  static const std::vector<double> buckets = {
      1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
  return buckets;
}

}  // namespace tessera
