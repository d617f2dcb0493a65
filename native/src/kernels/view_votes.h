// How much the opinion of one view counts at each Gaussian that it sees: mean and variance of the features of all views so
// far, and the voting network on them, block by block, in one pass (segmentation/generalization/gnesf/voting.py).
#pragma once

#include "mlp.h"

namespace gs {
namespace GS_ISA {

GS_INLINE Vec sigmoid(Vec x) {
  const Vec far = set(80.f);
  return set(1.f) / (set(1.f) + exp2_exact(vmin(vmax(zero() - x, zero() - far), far) * set(1.44269504f)));
}

inline void view_votes(const ViewVotes& v, int threads) {
  constexpr int64_t TASK = 16;  // blocks
  constexpr int HALF = LANES, INNER = VOTE_INNER;
  const int features = v.features, rest = v.differences + v.cue_count;
  const int32_t base[] = {3 * features, 64, INNER}, residual[] = {INNER, INNER, INNER + 1}, seen[] = {INNER, INNER, 1};
  const int32_t vote[] = {INNER + 1 + rest, 16, 8, 1};
  const int64_t blocks = (v.count + MLP_BLOCK - 1) / MLP_BLOCK;
  parallel(threads, (blocks + TASK - 1) / TASK, [&](int64_t task, int) {
    alignas(64) float space[2][MLP_WIDEST * MLP_BLOCK], x[MLP_WIDEST * MLP_BLOCK];
    for (int64_t block = task * TASK; block < blocks && block < (task + 1) * TASK; ++block) {
      const int64_t begin = block * MLP_BLOCK;
      const int count = static_cast<int>(v.count - begin < MLP_BLOCK ? v.count - begin : MLP_BLOCK);
      float *mean = space[0], *variance = mean + features * MLP_BLOCK;
      for (int r = 0; r < MLP_BLOCK; ++r) {
        const int64_t row = v.rows[begin + (r < count ? r : 0)];
        const float share = 1.f / (v.total[row] + 1e-8f);
        const float *first = v.first + row * features, *second = v.second + row * features;
        for (int i = 0; i < features; ++i) {
          const float m = first[i] * share, spread = second[i] * share - m * m;
          mean[i * MLP_BLOCK + r] = m;
          variance[i * MLP_BLOCK + r] = spread > 0.f ? spread : 0.f;
        }
      }
      to_block(v.described + begin * features, features, count, space[0] + 2 * features * MLP_BLOCK);
      const float* found = mlp_block(space[0], space[1], base, 2, v.base, true);
      for (int i = 0; i < INNER * MLP_BLOCK; ++i) x[i] = space[0][i] = found[i];
      found = mlp_block(space[0], space[1], residual, 2, v.residual, true);
      for (int half = 0; half < 2; ++half) {
        const Vec share = sigmoid(load(found + INNER * MLP_BLOCK + half * HALF));
        for (int i = 0; i < INNER; ++i) {
          float* place = x + i * MLP_BLOCK + half * HALF;
          const Vec sum = load(place) + load(found + i * MLP_BLOCK + half * HALF);
          store(place, sum);
          store(space[0] + i * MLP_BLOCK + half * HALF, sum * share);
        }
      }
      found = mlp_block(space[0], space[1], seen, 2, v.seen, false);
      for (int half = 0; half < 2; ++half)
        store(x + INNER * MLP_BLOCK + half * HALF, sigmoid(load(found + half * HALF)));
      to_block(v.difference + begin * v.differences, v.differences, count, x + (INNER + 1) * MLP_BLOCK);
      float* cues = x + (INNER + 1 + v.differences) * MLP_BLOCK;
      if (v.cue_count) to_block(v.cues + begin * v.cue_count, v.cue_count, count, cues);
      for (int i = 0; i < vote[0] * MLP_BLOCK; ++i) space[0][i] = x[i];
      found = mlp_block(space[0], space[1], vote, 3, v.vote, false);
      alignas(64) float logits[MLP_BLOCK];
      for (int half = 0; half < 2; ++half) {
        Vec logit = load(found + half * HALF);
        for (int i = 0; i < v.cue_count; ++i) logit = fma(set(v.straight[i]), load(cues + i * MLP_BLOCK + half * HALF), logit);
        const Vec limited = set(2.f) * sigmoid(logit * set(2.f / v.largest)) - set(1.f);  // tanh
        store(logits + half * HALF, set(v.largest) * limited);
      }
      for (int r = 0; r < count; ++r) v.logits[begin + r] = logits[r];
    }
  });
}

}  // namespace GS_ISA
}  // namespace gs
