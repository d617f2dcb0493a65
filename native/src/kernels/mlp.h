// A small network of dense layers with ELU between them, row by row, in one pass: rows are taken in blocks, across the
// lanes, and what lies between two layers never leaves the first cache.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

constexpr int MLP_BLOCK = 2 * LANES;  // rows

GS_INLINE Vec elu(Vec x) {
  const Vec below = exp2_exact(vmax(x, set(-80.f)) * set(1.44269504f)) - set(1.f);
  return select(gt(x, set(0.f)), x, below);
}

// OUTPUTS rows of w (outputs, inputs) and their biases, of inputs (inputs, MLP_BLOCK).
template <int OUTPUTS>
GS_INLINE void dense(const float* in, int inputs, const float* w, const float* bias, bool bent, float* out) {
  Vec a[OUTPUTS], b[OUTPUTS];
  for (int o = 0; o < OUTPUTS; ++o) a[o] = b[o] = set(bias[o]);
  for (int i = 0; i < inputs; ++i) {
    const Vec x = load(in + i * MLP_BLOCK), y = load(in + i * MLP_BLOCK + LANES);
    for (int o = 0; o < OUTPUTS; ++o) {
      const Vec weight = set(w[o * inputs + i]);
      a[o] = fma(weight, x, a[o]);
      b[o] = fma(weight, y, b[o]);
    }
  }
  for (int o = 0; o < OUTPUTS; ++o) {
    store(out + o * MLP_BLOCK, bent ? elu(a[o]) : a[o]);
    store(out + o * MLP_BLOCK + LANES, bent ? elu(b[o]) : b[o]);
  }
}

// Layers of a block in `in` (widths[0], MLP_BLOCK), which is overwritten as `next` is: where the last one's outputs lie.
inline float* mlp_block(float* in, float* next, const int32_t* widths, int layers, const float* w, bool last_bent) {
  for (int layer = 0; layer < layers; ++layer) {
    const int inputs = widths[layer], outputs = widths[layer + 1];
    const float* bias = w + inputs * outputs;
    const bool bent = layer + 1 < layers || last_bent;
    int o = 0;
    for (; o + 4 <= outputs; o += 4) dense<4>(in, inputs, w + o * inputs, bias + o, bent, next + o * MLP_BLOCK);
    for (; o < outputs; ++o) dense<1>(in, inputs, w + o * inputs, bias + o, bent, next + o * MLP_BLOCK);
    w = bias + outputs;
    float* before = in;
    in = next;
    next = before;
  }
  return in;
}

// `count` rows of x (., columns) into a block (columns, MLP_BLOCK), zeros behind them.
GS_INLINE void to_block(const float* x, int columns, int count, float* block) {
  for (int i = 0; i < columns; ++i) {
    for (int r = 0; r < count; ++r) block[i * MLP_BLOCK + r] = x[static_cast<int64_t>(r) * columns + i];
    for (int r = count; r < MLP_BLOCK; ++r) block[i * MLP_BLOCK + r] = 0.f;
  }
}

inline void mlp(const float* x, int64_t rows, const int32_t* widths, int layers, const float* weights, bool last_bent,
                float* out, int threads) {
  constexpr int64_t TASK = 16;  // blocks
  const int64_t blocks = (rows + MLP_BLOCK - 1) / MLP_BLOCK;
  const int first = widths[0], last = widths[layers];
  parallel(threads, (blocks + TASK - 1) / TASK, [&](int64_t task, int) {
    alignas(64) float space[2][MLP_WIDEST * MLP_BLOCK];
    for (int64_t block = task * TASK; block < blocks && block < (task + 1) * TASK; ++block) {
      const int64_t begin = block * MLP_BLOCK;
      const int count = static_cast<int>(rows - begin < MLP_BLOCK ? rows - begin : MLP_BLOCK);
      to_block(x + begin * first, first, count, space[0]);
      const float* found = mlp_block(space[0], space[1], widths, layers, weights, last_bent);
      for (int r = 0; r < count; ++r)
        for (int o = 0; o < last; ++o) out[(begin + r) * last + o] = found[o * MLP_BLOCK + r];
    }
  });
}

}  // namespace GS_ISA
}  // namespace gs
