#include "gpu_worker/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tessera {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

// Long waves are stretched by the factor, short ones stay, those between are mixed smoothly.
double Llama3Frequency(const RopeConfig& rope, double frequency) {
  const double wave = kTwoPi / frequency;
  if (wave > rope.original_max_positions / rope.low_freq_factor) return frequency / rope.factor;
  if (wave < rope.original_max_positions / rope.high_freq_factor) return frequency;
  const double smooth = (rope.original_max_positions / wave - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

// The pair index at which a wave turns `rotations` times within the original length.
double YarnIndex(const RopeConfig& rope, int64_t head_dim, double rotations) {
  return static_cast<double>(head_dim) *
         std::log(rope.original_max_positions / (rotations * kTwoPi)) / (2 * std::log(rope.theta));
}

double YarnFrequency(const RopeConfig& rope, int64_t head_dim, int64_t pair, double frequency) {
  double low = YarnIndex(rope, head_dim, rope.beta_fast);
  double high = YarnIndex(rope, head_dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;
  const double ramp = std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
  return frequency / rope.factor * ramp + frequency * (1 - ramp);
}

double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

}  // namespace

std::vector<float> RopeFrequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<float> frequencies(head_dim / 2);
  for (int64_t j = 0; j < head_dim / 2; ++j) {
    // In float, as the models were trained with.
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(head_dim);
    double frequency = 1.0f / std::pow(static_cast<float>(rope.theta), exponent);
    if (rope.kind == "linear") frequency /= rope.factor;
    if (rope.kind == "llama3") frequency = Llama3Frequency(rope, frequency);
    if (rope.kind == "yarn") frequency = YarnFrequency(rope, head_dim, j, frequency);
    frequencies[j] = static_cast<float>(frequency);
  }
  return frequencies;
}

float RopeAttentionFactor(const RopeConfig& rope) {
  if (rope.kind != "yarn") return 1.0f;
  if (rope.attention_factor > 0) return static_cast<float>(rope.attention_factor);
  if (rope.mscale > 0 && rope.mscale_all_dim > 0) {
    return static_cast<float>(YarnScale(rope.factor, rope.mscale) /
                              YarnScale(rope.factor, rope.mscale_all_dim));
  }
  return static_cast<float>(YarnScale(rope.factor, 1));
}

RopeTable MakeRopeTable(const RopeConfig& rope, int64_t head_dim, int64_t positions) {
  const std::vector<float> frequencies = RopeFrequencies(rope, head_dim);
  const float factor = RopeAttentionFactor(rope);
  RopeTable table;
  table.half_dim = head_dim / 2;
  table.cos.resize(positions * table.half_dim);
  table.sin.resize(positions * table.half_dim);
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t j = 0; j < table.half_dim; ++j) {
      const float angle = static_cast<float>(p) * frequencies[j];
      table.cos[p * table.half_dim + j] = std::cos(angle) * factor;
      table.sin[p * table.half_dim + j] = std::sin(angle) * factor;
    }
  }
  return table;
}

}  // namespace tessera
