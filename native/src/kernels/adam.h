// Adam on chosen rows, with a step count per row:
//     m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
//     x -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
#pragma once

#include "../simd.h"
#include "../thread_pool.h"

namespace gs {
namespace GS_ISA {

inline void adam(float* param, const float* grad, float* exp_avg, float* exp_avg_sq, const float* steps, const int64_t* rows,
                 int64_t count, int64_t width, float lr, float beta1, float beta2, float eps, int threads) {
  const float log2_beta1 = __builtin_log2f(beta1), log2_beta2 = __builtin_log2f(beta2);
  constexpr int64_t TASK = 2048;
  parallel(threads, (count + TASK - 1) / TASK, [&](int64_t task, int) {
    const int64_t end = (task + 1) * TASK < count ? (task + 1) * TASK : count;
    for (int64_t i = task * TASK; i < end; ++i) {
      const int64_t row = rows[i];
      const float t = steps[row];
      const float correct1 = 1.f - (beta1 > 0.f ? __builtin_exp2f(t * log2_beta1) : 0.f);
      const float correct2 = 1.f - (beta2 > 0.f ? __builtin_exp2f(t * log2_beta2) : 0.f);
      const float rate = lr / correct1, scale = 1.f / __builtin_sqrtf(correct2);
      float *x = param + row * width, *m = exp_avg + row * width, *v = exp_avg_sq + row * width;
      const float* g = grad + i * width;
      for (int64_t k = 0; k < width; ++k) {
        m[k] = beta1 * m[k] + (1.f - beta1) * g[k];
        v[k] = beta2 * v[k] + (1.f - beta2) * g[k] * g[k];
        x[k] -= rate * m[k] / (__builtin_sqrtf(v[k]) * scale + eps);
      }
    }
  });
}

}  // namespace GS_ISA
}  // namespace gs
