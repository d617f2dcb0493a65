// How much this machine computes at this moment: independent chains of fused multiply-adds in registers.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"

namespace gs {
namespace GS_ISA {

// Runs `rounds` rounds in each of `threads` tasks; returns the floating-point operations done.
inline double calibrate(int64_t rounds, int threads) {
  constexpr int CHAINS = sizeof(Vec) == 64 && sizeof(Mask) <= 2 ? 20 : 6;  // as many as registers hold
  const int tasks = effective_threads(threads);
  parallel(threads, tasks, [&](int64_t, int) {
    Vec chain[CHAINS];
    const Vec factor = set(0.999f), term = set(0.001f);
    GS_UNROLL for (int k = 0; k < CHAINS; ++k) chain[k] = set(0.1f * static_cast<float>(k));
    for (int64_t i = 0; i < rounds; ++i) GS_UNROLL for (int k = 0; k < CHAINS; ++k) chain[k] = fma(chain[k], factor, term);
    Vec sum = zero();
    for (int k = 0; k < CHAINS; ++k) sum = sum + chain[k];
    asm volatile("" : : "m"(sum));  // the result is wanted
  });
  return 2.0 * CHAINS * LANES * static_cast<double>(rounds) * tasks;
}

}  // namespace GS_ISA
}  // namespace gs
