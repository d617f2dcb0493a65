// Adam on chosen rows, with a step count per row:
//     m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
//     x -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
//
// Neighbouring rows with the same step count are one stretch of memory. Tensors that share the step counts share the
// search for stretches.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

struct AdamRates {
  float beta1, beta2, rate, scale, eps;  // rate = lr / (1 - b1^t), scale = 1 / sqrt(1 - b2^t)
};

struct Stretch {
  int32_t first, count;  // in the list of rows
  float unbias, scale;   // 1 / (1 - b1^t), 1 / sqrt(1 - b2^t)
};

GS_INLINE void adam_stretch(float* x, const float* g, float* m, float* v, int64_t count, const AdamRates& r) {
  auto step = [&](Vec grad, Vec& mean, Vec& square, Vec& value) __attribute__((always_inline)) {
    mean = fma(set(r.beta1), mean, set(1.f - r.beta1) * grad);
    square = fma(set(r.beta2), square, set(1.f - r.beta2) * grad * grad);
    value = value - set(r.rate) * mean / fma(vsqrt(square), set(r.scale), set(r.eps));
  };
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    Vec mean = load(m + i), square = load(v + i), value = load(x + i);
    step(load(g + i), mean, square, value);
    store(m + i, mean);
    store(v + i, square);
    store(x + i, value);
  }
  if (i == count) return;
  const int rest = static_cast<int>(count - i);
  Vec mean = load_first(m + i, rest), square = load_first(v + i, rest), value = load_first(x + i, rest);
  step(load_first(g + i, rest), mean, square, value);
  store_first(m + i, mean, rest);
  store_first(v + i, square, rest);
  store_first(x + i, value, rest);
}

inline void adam(const AdamTensor* tensors, int tensor_count, const int64_t* rows, int64_t count, float beta1,
                 float beta2, float eps, int threads) {
  const float log2_beta1 = __builtin_log2f(beta1), log2_beta2 = __builtin_log2f(beta2);
  constexpr int64_t TASK = 1024;
  parallel(threads, (count + TASK - 1) / TASK, [&](int64_t task, int) {
    const int64_t begin = task * TASK, end = begin + TASK < count ? begin + TASK : count;
    Stretch stretches[TASK];
    int found = 0;
    for (int tensor = 0; tensor < tensor_count; ++tensor) {
      const AdamTensor& a = tensors[tensor];
      if (a.advance)
        for (int64_t i = begin; i < end; ++i) a.steps[rows[i]] += 1.f;
      if (a.advance || !tensor || a.steps != tensors[tensor - 1].steps) {
        found = 0;
        float known = -1.f, unbias = 0.f, scale = 0.f;
        for (int64_t i = begin, next; i < end; i = next) {
          const float t = a.steps[rows[i]];
          for (next = i + 1; next < end && rows[next] == rows[next - 1] + 1 && !(a.steps[rows[next]] != t);) ++next;
          if (!(t == known)) {
            unbias = 1.f / (1.f - (beta1 > 0.f ? __builtin_exp2f(t * log2_beta1) : 0.f));
            scale = 1.f / __builtin_sqrtf(1.f - (beta2 > 0.f ? __builtin_exp2f(t * log2_beta2) : 0.f));
            known = t;
          }
          stretches[found++] = {static_cast<int32_t>(i - begin), static_cast<int32_t>(next - i), unbias, scale};
        }
      }
      AdamRates rates = {beta1, beta2, 0.f, 0.f, eps};
      for (int k = 0; k < found; ++k) {
        const Stretch& s = stretches[k];
        const int64_t i = begin + s.first, at = rows[i] * a.width;
        rates.rate = a.lr * s.unbias;
        rates.scale = s.scale;
        adam_stretch(a.param + at, a.grad + i * a.width, a.exp_avg + at, a.exp_avg_sq + at, s.count * a.width, rates);
      }
    }
  });
}

}  // namespace GS_ISA
}  // namespace gs
