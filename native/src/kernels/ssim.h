// (1 - weight) L1 + weight (1 - SSIM) of an image x against y, and its gradient with respect to x.
//
// As in 3D Gaussian Splatting: G blurs each channel with an 11x11 Gaussian window of sigma 1.5, zeros outside the image;
//     m = G x,  n = G y,  A1 = 2 m n + C1,  A2 = 2 (G xy - m n) + C2,
//     B1 = m^2 + n^2 + C1,  B2 = G x^2 + G y^2 - m^2 - n^2 + C2,  SSIM = mean of S = A1 A2 / (B1 B2).
// With G x^2, G xy and m as variables of their own,
//     dS/dG x^2 = -S / B2,  dS/dG xy = 2 A1 / (B1 B2),  dS/dm = (2 n (A2 - A1) + 2 m S (B1 - B2)) / (B1 B2),
// and as G is symmetric, dL/dx at a pixel is G dS/dm + 2 x G dS/dGx^2 + y G dS/dGxy.
//
// The window is separable and symmetric. Rows are taken SSIM_ROWS at a time: 14 input rows give 4 blurred across, which
// are then blurred along. The maps dS/d... stay in a ring of five such groups until the gradient's own blur has used
// them, so nothing but the images goes through memory. Channels stay interleaved: the taps are `channels` floats apart.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

constexpr int SSIM_REACH = 5, SSIM_ROWS = 4, SSIM_NEAR = SSIM_ROWS + 2 * SSIM_REACH;
// Groups of rows around one that its blur reaches.
constexpr int SSIM_SIDE = (SSIM_REACH + SSIM_ROWS - 1) / SSIM_ROWS, SSIM_RING = 2 * SSIM_SIDE + 1;

struct SsimWindow {
  Vec tap[SSIM_REACH + 1];  // by distance from the middle
  SsimWindow() {
    double value[SSIM_REACH + 1], sum = 1.0, middle = 1.0;
    for (int k = 1; k <= SSIM_REACH; ++k) {
      value[k] = __builtin_exp(-k * k / (2.0 * 1.5 * 1.5));
      sum += 2.0 * value[k];
    }
    for (int k = 1; k <= SSIM_REACH; ++k) {
      const float rounded = static_cast<float>(value[k] / sum);
      tap[k] = set(rounded);
      middle -= 2.0 * rounded;
    }
    tap[0] = set(static_cast<float>(middle));  // the taps add up to 1, or G x^2 - m^2 would be off everywhere
  }
};

// How blurred rows lie in memory: `margin` zeros, `length` values padded to whole vectors, `margin` zeros.
struct SsimLayout {
  int64_t length, padded, margin, stride;
  explicit SsimLayout(const SsimL1& a) {
    length = static_cast<int64_t>(a.width) * a.channels;
    padded = (length + LANES - 1) / LANES * LANES;
    margin = (SSIM_REACH * a.channels + LANES - 1) / LANES * LANES;
    stride = padded + 2 * margin;
  }
  // Of one thread: a row of zeros, one group of rows of 4 quantities, and the ring of the 3 maps.
  int64_t scratch() const { return padded + 4 * SSIM_ROWS * stride + 3 * SSIM_RING * SSIM_ROWS * padded; }
};

inline int64_t ssim_workspace(const SsimL1& a, int threads) {
  return effective_threads(threads) * SsimLayout(a).scratch();
}

// Blurs across rows: value(r) is what row r of SSIM_NEAR has in some column.
template <class Value>
GS_INLINE void blur_across(const SsimWindow& window, Value&& value, Vec* out) {
  Vec in[SSIM_NEAR];
  GS_UNROLL for (int r = 0; r < SSIM_NEAR; ++r) in[r] = value(r);
  GS_UNROLL for (int j = 0; j < SSIM_ROWS; ++j) {
    const Vec* middle = in + j + SSIM_REACH;
    out[j] = window.tap[0] * middle[0];
    GS_UNROLL for (int k = 1; k <= SSIM_REACH; ++k) out[j] = fma(window.tap[k], middle[-k] + middle[k], out[j]);
  }
}

// Blurs along a row. `spacing` is the number of channels, or 0: see `channels`.
template <int spacing>
GS_INLINE Vec blur_along(const SsimWindow& window, const float* at, int channels) {
  const Vec middle = load(at);
  Vec sum = window.tap[0] * middle;
#if defined(GS_ISA_avx512)
  if constexpr (spacing > 0) {  // shifting registers beats loads that cross cache lines
    static_assert(spacing * SSIM_REACH < LANES, "the taps lie in the neighbouring vectors");
    const __m512i low = _mm512_castps_si512(load(at - LANES).v), mid = _mm512_castps_si512(middle.v),
                  high = _mm512_castps_si512(load(at + LANES).v);
#define GS_TAP(k)                                                                                         \
  sum = fma(window.tap[k], Vec{_mm512_castsi512_ps(_mm512_alignr_epi32(mid, low, LANES - k * spacing))} + \
                               Vec{_mm512_castsi512_ps(_mm512_alignr_epi32(high, mid, k * spacing))},      \
            sum)
    GS_TAP(1);
    GS_TAP(2);
    GS_TAP(3);
    GS_TAP(4);
    GS_TAP(5);
#undef GS_TAP
    return sum;
  }
#endif
  const int apart = spacing > 0 ? spacing : channels;
  GS_UNROLL for (int k = 1; k <= SSIM_REACH; ++k)
    sum = fma(window.tap[k], load(at - k * apart) + load(at + k * apart), sum);
  return sum;
}

// What one thread needs for a band of rows.
template <int spacing>
class SsimBand {
 public:
  SsimBand(const SsimL1& a, const SsimLayout& layout, float* scratch) : a_(a), layout_(layout) {
    zeros_ = scratch;
    blurred_ = zeros_ + layout.padded;
    ring_ = blurred_ + 4 * SSIM_ROWS * layout.stride;
    std::memset(scratch, 0, (ring_ - scratch) * sizeof(float));
    const double values = static_cast<double>(a.height) * layout.length;
    of_ssim_ = set(static_cast<float>(-a.ssim_weight / values));
    of_l1_ = set(static_cast<float>((1.0 - a.ssim_weight) / values));
  }

  // The maps of a group of rows; returns its sum of S.
  double compare(int64_t group) {
    const int first = static_cast<int>(group) * SSIM_ROWS;
    const float *x[SSIM_NEAR], *t[SSIM_NEAR];
    for (int r = 0; r < SSIM_NEAR; ++r) {
      x[r] = input(a_.image, first - SSIM_REACH + r);
      t[r] = input(a_.target, first - SSIM_REACH + r);
    }
    auto across = [&](int64_t i, auto&& read) __attribute__((always_inline)) {
      Vec out[SSIM_ROWS];
      auto put = [&](int quantity) __attribute__((always_inline)) {
        GS_UNROLL for (int j = 0; j < SSIM_ROWS; ++j) store(row(quantity, j) + i, out[j]);
      };
      blur_across(window_, [&](int r) __attribute__((always_inline)) { return read(x[r]); }, out);
      put(0);
      blur_across(window_, [&](int r) __attribute__((always_inline)) { return read(t[r]); }, out);
      put(1);
      auto squares = [&](int r) __attribute__((always_inline)) {
        const Vec u = read(x[r]), v = read(t[r]);
        return fma(u, u, v * v);
      };
      blur_across(window_, squares, out);
      put(2);
      blur_across(window_, [&](int r) __attribute__((always_inline)) { return read(x[r]) * read(t[r]); }, out);
      put(3);
    };
    int64_t i = 0;
    for (; i + LANES <= layout_.length; i += LANES)
      across(i, [&](const float* p) __attribute__((always_inline)) { return load(p + i); });
    if (i < layout_.length) across(i, [&](const float* p) __attribute__((always_inline)) { return rest(p, i); });

    double total = 0.0;
    for (int j = 0; j < SSIM_ROWS && first + j < a_.height; ++j) {
      const float *m_row = row(0, j), *n_row = row(1, j), *squares_row = row(2, j), *product_row = row(3, j);
      float *m_map = map(0, first + j), *squares_map = map(1, first + j), *product_map = map(2, first + j);
      Vec sum_s = zero();
      for (int64_t i = 0; i < layout_.padded; i += LANES) {
        const Vec m = along(m_row + i), n = along(n_row + i), squares = along(squares_row + i),
                  product = along(product_row + i);
        const Vec two = set(2.f), c1 = set(1e-4f), c2 = set(9e-4f), mn = m * n, own = fma(m, m, n * n);
        const Vec A1 = fma(two, mn, c1), A2 = fma(two, product - mn, c2), B1 = own + c1, B2 = squares - own + c2;
        const Vec inverse = set(1.f) / (B1 * B2), S = A1 * A2 * inverse;
        const Mask inside = from_bits(i + LANES <= layout_.length ? 0xffffu : 0xffffu >> (i + LANES - layout_.length));
        sum_s = sum_s + keep(inside, S);
        store(m_map + i, keep(inside, two * inverse * fma(n, A2 - A1, m * S * (B1 - B2))));
        store(squares_map + i, keep(inside, -(S * B1 * inverse)));
        store(product_map + i, keep(inside, two * A1 * inverse));
      }
      total += sum(sum_s);
    }
    return total;
  }

  // The gradient of a group of rows from the maps around; returns its sum of |x - y|.
  double differentiate(int64_t group) {
    const int first = static_cast<int>(group) * SSIM_ROWS;
    for (int quantity = 0; quantity < 3; ++quantity) {
      const float* from[SSIM_NEAR];
      for (int r = 0; r < SSIM_NEAR; ++r) {
        const int y = first - SSIM_REACH + r;
        from[r] = y < 0 || y >= a_.height ? zeros_ : map(quantity, y);
      }
      for (int64_t i = 0; i < layout_.padded; i += LANES) {
        Vec out[SSIM_ROWS];
        blur_across(window_, [&](int r) __attribute__((always_inline)) { return load(from[r] + i); }, out);
        GS_UNROLL for (int j = 0; j < SSIM_ROWS; ++j) store(row(quantity, j) + i, out[j]);
      }
    }
    double total = 0.0;
    for (int j = 0; j < SSIM_ROWS && first + j < a_.height; ++j) {
      const float *x = input(a_.image, first + j), *t = input(a_.target, first + j);
      const float *m_row = row(0, j), *squares_row = row(1, j), *product_row = row(2, j);
      float* out = a_.grad + (first + j) * layout_.length;
      Vec sum_d = zero();
      auto gradient = [&](int64_t i, Vec u, Vec v) __attribute__((always_inline)) {
        const Vec g = fma(set(2.f) * u, along(squares_row + i), fma(v, along(product_row + i), along(m_row + i)));
        const Vec d = u - v, sign = keep(gt(d, zero()), set(1.f)) - keep(gt(zero(), d), set(1.f));
        sum_d = sum_d + vabs(d);
        return fma(of_ssim_, g, of_l1_ * sign);
      };
      int64_t i = 0;
      for (; i + LANES <= layout_.length; i += LANES) store(out + i, gradient(i, load(x + i), load(t + i)));
      if (i < layout_.length)
        store_first(out + i, gradient(i, rest(x, i), rest(t, i)), static_cast<int>(layout_.length - i));
      total += sum(sum_d);
    }
    return total;
  }

 private:
  GS_INLINE Vec along(const float* at) const { return blur_along<spacing>(window_, at, a_.channels); }
  GS_INLINE Vec rest(const float* p, int64_t i) const { return load_first(p + i, static_cast<int>(layout_.length - i)); }
  GS_INLINE const float* input(const float* image, int y) const {
    return y < 0 || y >= a_.height ? zeros_ : image + y * layout_.length;
  }
  GS_INLINE float* row(int quantity, int j) const {
    return blurred_ + (quantity * SSIM_ROWS + j) * layout_.stride + layout_.margin;
  }
  GS_INLINE float* map(int quantity, int y) const {
    return ring_ + ((y % (SSIM_RING * SSIM_ROWS)) * 3 + quantity) * layout_.padded;
  }

  const SsimL1& a_;
  const SsimLayout& layout_;
  const SsimWindow window_;
  float *zeros_, *blurred_, *ring_;
  Vec of_ssim_, of_l1_;
};

template <int spacing>
void ssim_bands(const SsimL1& a, int threads, double* similarity, double* distance) {
  const SsimLayout layout(a);
  const int64_t groups = (a.height + SSIM_ROWS - 1) / SSIM_ROWS;
  // Few bands, as each one compares the groups around it, too.
  const int64_t wanted = threads == 1 ? 1 : 2 * threads, bands = wanted < groups ? wanted : groups;
  parallel(threads, bands, [&](int64_t index, int thread) {
    SsimBand<spacing> band(a, layout, a.workspace + thread * layout.scratch());
    const int64_t begin = index * groups / bands, end = (index + 1) * groups / bands;
    for (int64_t group = begin - SSIM_SIDE; group < end + SSIM_SIDE; ++group) {
      if (group >= 0 && group < groups) {
        const double s = band.compare(group);
        if (group >= begin && group < end) similarity[group] = s;
      }
      if (group - SSIM_SIDE >= begin) distance[group - SSIM_SIDE] = band.differentiate(group - SSIM_SIDE);
    }
  });
}

// Returns the loss; `a.grad` gets its gradient.
inline double ssim_l1(const SsimL1& a, int threads) {
  threads = effective_threads(threads);
  const int64_t groups = (a.height + SSIM_ROWS - 1) / SSIM_ROWS;
  Buffer<double> sums;  // by group, so that bands do not matter
  double *similarity = sums.reserve(2 * groups), *distance = similarity + groups;
  if (a.channels == 3)
    ssim_bands<3>(a, threads, similarity, distance);
  else
    ssim_bands<0>(a, threads, similarity, distance);
  double s = 0.0, d = 0.0;
  for (int64_t group = 0; group < groups; ++group) s += similarity[group], d += distance[group];
  const double values = static_cast<double>(a.height) * a.width * a.channels;
  return (1.0 - a.ssim_weight) * d / values + a.ssim_weight * (1.0 - s / values);
}

}  // namespace GS_ISA
}  // namespace gs
