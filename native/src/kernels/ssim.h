// (1 - weight) L1 + weight (1 - SSIM) of an image x against y, and its gradient with respect to x.
//
// As in 3D Gaussian Splatting: G blurs each channel with an 11x11 Gaussian window of sigma 1.5, zeros outside the image;
//     m = G x,  n = G y,  A1 = 2 m n + C1,  A2 = 2 (G xy - m n) + C2,
//     B1 = m^2 + n^2 + C1,  B2 = G x^2 + G y^2 - m^2 - n^2 + C2,  SSIM = mean of S = A1 A2 / (B1 B2).
// With G x^2, G xy and m as variables of their own,
//     dS/dG x^2 = -S / B2,  dS/dG xy = 2 A1 / (B1 B2),  dS/dm = (2 n (A2 - A1) + 2 m S (B1 - B2)) / (B1 B2),
// and as G is symmetric, dL/dx at a pixel is G dS/dm + 2 x G dS/dGx^2 + y G dS/dGxy.
//
// The window is separable. Bands of rows are blurred along the rows first, into a ring of the last 11 rows, and then
// across. Channels stay interleaved: a row is one array, and the taps are `channels` floats apart.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

constexpr int SSIM_REACH = 5, SSIM_TAPS = 2 * SSIM_REACH + 1, SSIM_BAND = 32;

struct SsimWindow {
  float tap[SSIM_TAPS];
  SsimWindow() {
    float sum = 0.f;
    for (int i = 0; i < SSIM_TAPS; ++i) {
      const float d = i - SSIM_REACH;
      sum += tap[i] = __builtin_expf(-d * d / (2.f * 1.5f * 1.5f));
    }
    for (float& t : tap) t /= sum;
  }
};

// How rows lie in memory: `margin` zeros, `length` values padded to whole vectors, `margin` zeros.
struct SsimLayout {
  int64_t length, padded, margin, stride;
  explicit SsimLayout(const SsimL1& a) {
    length = static_cast<int64_t>(a.width) * a.channels;
    padded = (length + LANES - 1) / LANES * LANES;
    margin = (SSIM_REACH * a.channels + LANES - 1) / LANES * LANES;
    stride = padded + 2 * margin;
  }
  // Of one thread: the rows that are blurred (at most 4), and a ring of 11 blurred rows for each.
  int64_t scratch() const { return 4 * stride + 4 * SSIM_TAPS * padded; }
};

inline int64_t ssim_workspace(const SsimL1& a, int threads) {
  const SsimLayout layout(a);
  return 3 * a.height * layout.stride + effective_threads(threads) * layout.scratch();
}

// Blurs `count` rows (pointers to their first value, with margins) along themselves.
template <int count>
GS_INLINE void blur_along(const SsimWindow& window, int64_t padded, int channels, const float* const* rows, float* out) {
  for (int64_t i = 0; i < padded; i += LANES)
    GS_UNROLL for (int q = 0; q < count; ++q) {
      const float* at = rows[q] + i;
      Vec sum = set(window.tap[SSIM_REACH]) * load(at), other = zero();
      GS_UNROLL for (int k = 1; k <= SSIM_REACH; ++k) {
        sum = fma(set(window.tap[SSIM_REACH - k]), load(at - k * channels), sum);
        other = fma(set(window.tap[SSIM_REACH - k]), load(at + k * channels), other);
      }
      store(out + q * padded + i, sum + other);
    }
}

// For each row of a band: blur(y, ring slot) makes the blurred rows of input row y; row(y, taps) takes the 11 slots
// around output row y (those outside the image are zero).
template <int count, class Blur, class Row>
GS_INLINE void for_rows_of_band(int64_t band, int height, int64_t padded, float* ring, Blur&& blur, Row&& row) {
  const int first = static_cast<int>(band) * SSIM_BAND, stop = imin(first + SSIM_BAND, height);
  const int64_t size = count * padded;
  const float* slots[SSIM_TAPS];
  for (int y = first - SSIM_REACH; y < stop + SSIM_REACH; ++y) {
    float* slot = ring + ((y + SSIM_TAPS) % SSIM_TAPS) * size;
    if (y < 0 || y >= height)
      std::memset(slot, 0, size * sizeof(float));
    else
      blur(y, slot);
    const int out = y - SSIM_REACH;
    if (out < first) continue;
    for (int k = 0; k < SSIM_TAPS; ++k) slots[k] = ring + ((out - SSIM_REACH + k + SSIM_TAPS) % SSIM_TAPS) * size;
    row(out, slots);
  }
}

GS_INLINE Vec blur_across(const SsimWindow& window, const float* const* slots, int64_t at) {
  Vec sum = set(window.tap[SSIM_REACH]) * load(slots[SSIM_REACH] + at), other = zero();
  GS_UNROLL for (int k = 1; k <= SSIM_REACH; ++k) {
    sum = fma(set(window.tap[SSIM_REACH - k]), load(slots[SSIM_REACH - k] + at), sum);
    other = fma(set(window.tap[SSIM_REACH - k]), load(slots[SSIM_REACH + k] + at), other);
  }
  return sum + other;
}

// Returns the loss; `a.grad` gets its gradient.
inline double ssim_l1(const SsimL1& a, int threads) {
  const SsimWindow window;
  const SsimLayout layout(a);
  const int64_t bands = (a.height + SSIM_BAND - 1) / SSIM_BAND, padded = layout.padded, stride = layout.stride;
  float* maps = a.workspace;  // dS/dm, dS/dG x^2, dS/dG xy, row by row
  float* scratch = maps + 3 * a.height * stride;
  const int rest = static_cast<int>(layout.length % LANES);
  auto valid = [&](int64_t i) __attribute__((always_inline)) {
    return from_bits(i + LANES <= layout.length ? 0xffffu : 0xffffu >> (LANES - rest));
  };
  auto read = [&](const float* row, int64_t i) __attribute__((always_inline)) {
    return i + LANES <= layout.length ? load(row + i) : load_first(row + i, rest);
  };
  Buffer<double> similarity, distance;
  similarity.reserve(bands);
  distance.reserve(bands);

  parallel(threads, bands, [&](int64_t band, int thread) {
    float *inputs = scratch + thread * layout.scratch(), *ring = inputs + 4 * stride;
    std::memset(inputs, 0, 4 * stride * sizeof(float));
    const float* rows[4];
    for (int q = 0; q < 4; ++q) rows[q] = inputs + q * stride + layout.margin;
    double total = 0.0;
    for_rows_of_band<4>(
        band, a.height, padded, ring,
        [&](int y, float* slot) __attribute__((always_inline)) {
          const float *x = a.image + y * layout.length, *t = a.target + y * layout.length;
          float* in = inputs + layout.margin;
          for (int64_t i = 0; i < padded; i += LANES) {
            const Vec u = read(x, i), v = read(t, i);
            store(in + i, u);
            store(in + stride + i, v);
            store(in + 2 * stride + i, fma(u, u, v * v));
            store(in + 3 * stride + i, u * v);
          }
          blur_along<4>(window, padded, a.channels, rows, slot);
        },
        [&](int y, const float* const* slots) __attribute__((always_inline)) {
          float* out = maps + 3 * y * stride;
          std::memset(out, 0, 3 * stride * sizeof(float));
          out += layout.margin;
          Vec sum_s = zero();
          for (int64_t i = 0; i < padded; i += LANES) {
            const Vec m = blur_across(window, slots, i), n = blur_across(window, slots, padded + i);
            const Vec squares = blur_across(window, slots, 2 * padded + i),
                      product = blur_across(window, slots, 3 * padded + i);
            const Vec two = set(2.f), c1 = set(1e-4f), c2 = set(9e-4f), mn = m * n, own = fma(m, m, n * n);
            const Vec A1 = fma(two, mn, c1), A2 = fma(two, product - mn, c2), B1 = own + c1, B2 = squares - own + c2;
            const Vec inverse = set(1.f) / (B1 * B2), S = A1 * A2 * inverse;
            const Mask inside = valid(i);
            sum_s = sum_s + keep(inside, S);
            store(out + i, keep(inside, two * inverse * fma(n, A2 - A1, m * S * (B1 - B2))));
            store(out + stride + i, keep(inside, -(S * B1 * inverse)));
            store(out + 2 * stride + i, keep(inside, two * A1 * inverse));
          }
          total += sum(sum_s);
        });
    similarity[band] = total;
  });

  const double values = static_cast<double>(a.height) * layout.length;
  const Vec of_ssim = set(static_cast<float>(-a.ssim_weight / values)),
            of_l1 = set(static_cast<float>((1.0 - a.ssim_weight) / values));
  parallel(threads, bands, [&](int64_t band, int thread) {
    float* ring = scratch + thread * layout.scratch() + 4 * stride;
    double total = 0.0;
    for_rows_of_band<3>(
        band, a.height, padded, ring,
        [&](int y, float* slot) __attribute__((always_inline)) {
          const float* map = maps + 3 * y * stride + layout.margin;
          const float* rows[3] = {map, map + stride, map + 2 * stride};
          blur_along<3>(window, padded, a.channels, rows, slot);
        },
        [&](int y, const float* const* slots) __attribute__((always_inline)) {
          const float *x = a.image + y * layout.length, *t = a.target + y * layout.length;
          float* out = a.grad + y * layout.length;
          Vec sum_d = zero();
          for (int64_t i = 0; i < padded; i += LANES) {
            const Vec u = read(x, i), v = read(t, i), d = u - v;
            const Vec g = fma(set(2.f) * u, blur_across(window, slots, padded + i),
                              fma(v, blur_across(window, slots, 2 * padded + i), blur_across(window, slots, i)));
            const Vec sign = keep(gt(d, zero()), set(1.f)) - keep(gt(zero(), d), set(1.f));
            const Vec grad = fma(of_ssim, g, of_l1 * sign);
            sum_d = sum_d + vabs(d);  // 0 beyond the row
            if (i + LANES <= layout.length)
              store(out + i, grad);
            else
              store_first(out + i, grad, rest);
          }
          total += sum(sum_d);
        });
    distance[band] = total;
  });

  double s = 0.0, d = 0.0;
  for (int64_t band = 0; band < bands; ++band) s += similarity[band], d += distance[band];
  return (1.0 - a.ssim_weight) * d / values + a.ssim_weight * (1.0 - s / values);
}

}  // namespace GS_ISA
}  // namespace gs
