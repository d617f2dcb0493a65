// Gradients of an optimisation step's loss with respect to the rendered images, one pixel at a time:
//     colour    g = clamp((c - c*) / knee, -1, 1), the derivative of Huber's loss;
//     depth     g = weight clamp((z - z*) / knee, -1, 1) where z* is measured, alpha > 1/2 and
//               |z - z*| < near + near_per_m2 z*^2, else 0;
//     features  g = weight (f - code[slot]) where slot > 0, else 0.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

GS_INLINE float limit_to_one(float x) { return x < -1.f ? -1.f : x > 1.f ? 1.f : x; }

// Returns the number of pixels whose slot has no code; adds up |c - c*| in `error`.
inline int64_t residual(const Residual& r, double* error, int threads) {
  constexpr int64_t TASK = 4096;
  const int64_t tasks = (r.pixels + TASK - 1) / TASK;
  Buffer<double> errors;
  Buffer<int64_t> strangers;
  errors.reserve(tasks);
  strangers.reserve(tasks);
  parallel(threads, tasks, [&](int64_t task, int) {
    const int64_t begin = task * TASK, end = begin + TASK < r.pixels ? begin + TASK : r.pixels;
    float sums[LANES] = {};
    int64_t i = 3 * begin;
    for (; i + LANES <= 3 * end; i += LANES)
      for (int k = 0; k < LANES; ++k) {
        const float e = r.rgb[i + k] - r.target_rgb[i + k];
        sums[k] += __builtin_fabsf(e);
        r.grad_rgb[i + k] = limit_to_one(e * r.colour_scale);
      }
    for (; i < 3 * end; ++i) {
      const float e = r.rgb[i] - r.target_rgb[i];
      sums[0] += __builtin_fabsf(e);
      r.grad_rgb[i] = limit_to_one(e * r.colour_scale);
    }
    errors[task] = 0.0;
    for (float s : sums) errors[task] += s;
    if (r.target_depth)
      for (i = begin; i < end; ++i) {
        const float z = r.target_depth[i], e = r.depth[i] - z;
        const bool near = (z > 0.f) & (r.alpha[i] > 0.5f) & (__builtin_fabsf(e) < r.near + r.near_per_m2 * z * z);
        r.grad_depth[i] = near ? r.depth_weight * limit_to_one(e * r.depth_scale) : 0.f;
      }
    strangers[task] = 0;
    if (r.slots)
      for (i = begin; i < end; ++i) {
        float* out = r.grad_features + i * r.channels;
        const int64_t slot = r.slots[i];
        if (slot <= 0 || slot >= r.code_count) {
          strangers[task] += slot < 0 || slot >= r.code_count;
          std::memset(out, 0, r.channels * sizeof(float));
          continue;
        }
        const float *f = r.features + i * r.channels, *code = r.codes + slot * r.channels;
        for (int c = 0; c < r.channels; ++c) out[c] = r.feature_weight * (f[c] - code[c]);
      }
  });
  int64_t all_strangers = 0;
  *error = 0.0;
  for (int64_t task = 0; task < tasks; ++task) {
    *error += errors[task];
    all_strangers += strangers[task];
  }
  return all_strangers;
}

// weight times the mean of |z - z*| over an image, pixels without z* > 0 as 0, and its gradient.
inline double depth_l1(const float* depth, const float* target, float* grad, int64_t pixels, float weight, int threads) {
  constexpr int64_t TASK = 16384;
  const int64_t tasks = (pixels + TASK - 1) / TASK;
  const Vec step = set(static_cast<float>(weight / static_cast<double>(pixels)));
  Buffer<double> sums;
  sums.reserve(tasks);
  parallel(threads, tasks, [&](int64_t task, int) {
    const int64_t begin = task * TASK, end = begin + TASK < pixels ? begin + TASK : pixels;
    Vec total = zero();
    auto compare = [&](Vec z, Vec wanted) __attribute__((always_inline)) {
      const Vec e = keep(gt(wanted, zero()), z - wanted);
      total = total + vabs(e);
      return keep(gt(e, zero()), step) - keep(gt(zero(), e), step);
    };
    int64_t i = begin;
    for (; i + LANES <= end; i += LANES) store(grad + i, compare(load(depth + i), load(target + i)));
    if (const int rest = static_cast<int>(end - i))
      store_first(grad + i, compare(load_first(depth + i, rest), load_first(target + i, rest)), rest);
    sums[task] = sum(total);
  });
  double all = 0.0;
  for (int64_t task = 0; task < tasks; ++task) all += sums[task];
  return weight * all / static_cast<double>(pixels);
}

}  // namespace GS_ISA
}  // namespace gs
