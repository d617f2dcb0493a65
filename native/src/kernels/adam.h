// Adam on chosen rows, with a step count per row:
//     m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
//     x -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
//
// Neighbouring rows with the same step count are one stretch of memory; most of a view's rows come in such stretches.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"

namespace gs {
namespace GS_ISA {

struct AdamRates {
  float beta1, beta2, rate, scale, eps;  // rate = lr / (1 - b1^t), scale = 1 / sqrt(1 - b2^t)
};

GS_INLINE void adam_stretch(float* x, const float* g, float* m, float* v, int64_t count, const AdamRates& r) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    const Vec grad = load(g + i);
    const Vec mean = fma(set(r.beta1), load(m + i), set(1.f - r.beta1) * grad);
    const Vec square = fma(set(r.beta2), load(v + i), set(1.f - r.beta2) * grad * grad);
    store(m + i, mean);
    store(v + i, square);
    store(x + i, load(x + i) - set(r.rate) * mean / fma(vsqrt(square), set(r.scale), set(r.eps)));
  }
  for (; i < count; ++i) {
    m[i] = r.beta1 * m[i] + (1.f - r.beta1) * g[i];
    v[i] = r.beta2 * v[i] + (1.f - r.beta2) * g[i] * g[i];
    x[i] -= r.rate * m[i] / (__builtin_sqrtf(v[i]) * r.scale + r.eps);
  }
}

inline void adam(float* param, const float* grad, float* exp_avg, float* exp_avg_sq, float* steps, const int64_t* rows,
                 int64_t count, int64_t width, float lr, float beta1, float beta2, float eps, bool advance,
                 int threads) {
  const float log2_beta1 = __builtin_log2f(beta1), log2_beta2 = __builtin_log2f(beta2);
  constexpr int64_t TASK = 2048;
  parallel(threads, (count + TASK - 1) / TASK, [&](int64_t task, int) {
    const int64_t end = (task + 1) * TASK < count ? (task + 1) * TASK : count;
    if (advance)
      for (int64_t i = task * TASK; i < end; ++i) steps[rows[i]] += 1.f;
    float known = -1.f;
    AdamRates rates = {beta1, beta2, 0.f, 0.f, eps};
    for (int64_t i = task * TASK, next; i < end; i = next) {
      const float t = steps[rows[i]];
      for (next = i + 1; next < end && rows[next] == rows[next - 1] + 1 && !(steps[rows[next]] != t);) ++next;
      if (!(t == known)) {
        rates.rate = lr / (1.f - (beta1 > 0.f ? __builtin_exp2f(t * log2_beta1) : 0.f));
        rates.scale = 1.f / __builtin_sqrtf(1.f - (beta2 > 0.f ? __builtin_exp2f(t * log2_beta2) : 0.f));
        known = t;
      }
      const int64_t at = rows[i] * width;
      adam_stretch(param + at, grad + i * width, exp_avg + at, exp_avg_sq + at, (next - i) * width, rates);
    }
  });
}

}  // namespace GS_ISA
}  // namespace gs
