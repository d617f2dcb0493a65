// What a walk drew in one block, kept so that later passes over the block need not find it again, and those passes.
//
// Rows hold the 16 pixels of one splat. With q_i = sum_c g_c value_ic, the image gradient that splat i sees at a pixel,
// and B_i what is blended behind it (B = 0 behind the last), the gradient of alpha is T_i (q_i - B_i). From back to front
//     s_i = alpha_i dL/d alpha_i = w_i (q_i - B_i),   B_{i-1} = (1 - alpha_i) B_i + alpha_i q_i.
// Sums over the pixels are taken for 16 splats at once, with splats instead of pixels in the lanes.
#pragma once

#include "tile.h"

namespace gs {
namespace GS_ISA {

// Sums of a splat over pixels. S_1 to S_YY: moments of s about the splat's centre.
enum SplatSum { W_RED, W_GREEN, W_BLUE, W_Z, S_1, S_X, S_Y, S_XX, S_XY, S_YY };

// Records of one block, in memory that has room for whole vectors of them. Loops over them keep the pointers in locals:
// a vector that is stored might, for all the compiler knows, change them.
struct Records {
  int32_t* splat;   // in the tile's list, front to back
  float *w, *alpha; // rows
  int count = 0;

  Records() = default;
  Records(const TileList& list, Scratch& scratch) {
    const int64_t room = list.length + LANES;
    w = scratch.walked.reserve(room * (2 * LANES + 1));
    alpha = w + room * LANES;
    splat = reinterpret_cast<int32_t*>(alpha + room * LANES);
  }
};

// Walks a block and records what it draws; draw(k, w) also sees it. Returns the final transmittance.
template <bool with_alpha, class Draw>
GS_INLINE Vec record(const View& view, TileList& list, const PixelBlock& block, Records& records, Draw&& draw) {
  int32_t* const splat = records.splat;
  float *const w_rows = records.w, *const alpha_rows = records.alpha;
  int n = 0;
  const Vec T = walk(
      view, list, block,
      [&](int k, Vec w, Vec alpha, Vec, Mask alive) __attribute__((always_inline)) {
        splat[n] = k;
        store(w_rows + n * LANES, w);
        if (with_alpha) store(alpha_rows + n * LANES, keep(alive, alpha));
        n += any(gt(w, zero()));
        draw(k, w);
      },
      [](Mask alive, Vec) __attribute__((always_inline)) { return !any(alive); });
  records.count = n;
  return T;
}

// The gradients that a block's pixels bring, in the forms that the passes over its records want: g_w is the part of q
// that is the same for all splats, `value` belongs to colour and depth, `feature` to the features that the list carries.
struct BlockGradients {
  Vec w = zero(), value[4] = {zero(), zero(), zero(), zero()}, feature[PASS];
  alignas(64) float value_rows[4][LANES], feature_rows[LANES][LANES];
};

// sums[k] += the sums of a block, for 16 records at a time, from the back.
template <bool color, int channels>
GS_INLINE void add_splat_sums(const TileList& list, const Records& records, const PixelBlock& block, Vec alpha_max,
                              const BlockGradients& g, float* sums, int64_t sums_stride) {
  const Vec centre_x = set(block.x + 2.f), centre_y = set(block.y + 2.f);
  const Vec far = set(1.5f), near = set(0.5f), far2 = set(2.25f), near2 = set(0.25f);
  int32_t* const splat = records.splat;
  float *const w_rows = records.w, *const alpha_rows = records.alpha;
  const float *const px = list.field(TileList::PX), *const py = list.field(TileList::PY),
              *const list_records = list.record(0), *const features = list.features;
  const int padded = (records.count + LANES - 1) / LANES * LANES;
  for (int i = records.count; i < padded; ++i) {  // that add nothing
    splat[i] = 0;
    store(w_rows + i * LANES, zero());
    store(alpha_rows + i * LANES, zero());
  }
  Vec behind = zero();
  for (int first = padded - LANES; first >= 0; first -= LANES) {
    Vec t[LANES], out[LANES];
    alignas(64) float x_of[LANES], y_of[LANES];
    GS_UNROLL for (int i = LANES - 1; i >= 0; --i) {
      const int64_t k = splat[first + i];
      x_of[i] = px[k];
      y_of[i] = py[k];
      Vec q = g.w, q2 = zero();
      if (color) {
        const float* at = list_records + k * TileList::RECORD;
        q = fma(g.value[0], set(at[TileList::RED]), q);
        q2 = g.value[1] * set(at[TileList::GREEN]);
        q = fma(g.value[2], set(at[TileList::BLUE]), q);
        q2 = fma(g.value[3], set(at[TileList::DEPTH]), q2);
      }
      if (channels) {
        const float* value = features + k * PASS;
        GS_UNROLL for (int c = 0; c < channels; c += 2) {
          q = fma(g.feature[c], set(value[c]), q);
          q2 = fma(g.feature[c + 1], set(value[c + 1]), q2);
        }
      }
      q = q + q2;
      const Vec alpha = load(alpha_rows + (first + i) * LANES), w = load(w_rows + (first + i) * LANES);
      // a limited alpha does not follow its parameters
      t[i] = keep(gt(alpha_max, alpha), w * (q - behind));
      behind = fma(alpha, q - behind, behind);
    }
    transpose16(t);
    Vec line[4], line_x[4], line_xx[4];  // of each line of the block, about its middle
    GS_UNROLL for (int r = 0; r < 4; ++r) {
      const Vec *p = t + 4 * r, inner = p[1] + p[2], outer = p[0] + p[3];
      line[r] = inner + outer;
      line_x[r] = fma(far, p[3] - p[0], near * (p[2] - p[1]));
      line_xx[r] = fma(far2, outer, near2 * inner);
    }
    const Vec inner = line[1] + line[2], outer = line[0] + line[3], one = inner + outer;
    const Vec x = (line_x[0] + line_x[3]) + (line_x[1] + line_x[2]);
    const Vec y = fma(far, line[3] - line[0], near * (line[2] - line[1]));
    const Vec xx = (line_xx[0] + line_xx[3]) + (line_xx[1] + line_xx[2]);
    const Vec xy = fma(far, line_x[3] - line_x[0], near * (line_x[2] - line_x[1]));
    const Vec yy = fma(far2, outer, near2 * inner);
    // From the middle of the block to the centre of each splat.
    const Vec dx = centre_x - load(x_of), dy = centre_y - load(y_of);
    out[S_1] = one;
    out[S_X] = fma(dx, one, x);
    out[S_Y] = fma(dy, one, y);
    out[S_XX] = fma(dx, x + out[S_X], xx);
    out[S_XY] = fma(dx, y, fma(dy, out[S_X], xy));
    out[S_YY] = fma(dy, y + out[S_Y], yy);
    GS_UNROLL for (int c = S_YY + 1; c < LANES; ++c) out[c] = zero();
    if (color) {
      GS_UNROLL for (int i = 0; i < LANES; ++i) t[i] = load(w_rows + (first + i) * LANES);
      transpose16(t);
      GS_UNROLL for (int c = 0; c < 4; ++c) {
        Vec even = t[0] * set(g.value_rows[c][0]), odd = t[1] * set(g.value_rows[c][1]);
        GS_UNROLL for (int p = 2; p < LANES; p += 2) {
          even = fma(t[p], set(g.value_rows[c][p]), even);
          odd = fma(t[p + 1], set(g.value_rows[c][p + 1]), odd);
        }
        out[c] = even + odd;
      }
    } else {
      GS_UNROLL for (int c = 0; c < 4; ++c) out[c] = zero();
    }
    transpose16(out);
    const int count = imin(LANES, records.count - first);
    GS_UNROLL for (int i = 0; i < LANES; ++i) {
      if (i == count) break;
      float* to = sums + splat[first + i] * sums_stride;
      store(to, load(to) + out[i]);
    }
  }
}

// rows[p] = sum_i w_i(p) feature_i: a pixel's channels in a row. `features`: one row of PASS per splat of the tile.
// `ahead`: records that lie in memory nobody touched lately are asked for so many records before.
template <int ahead = 0>
GS_INLINE void blend_features(const float* features, const Records& records, float (*rows)[LANES]) {
  const int32_t* const splat = records.splat;
  const float* w = records.w;
  Vec f[LANES];
  GS_UNROLL for (int p = 0; p < LANES; ++p) f[p] = zero();
  for (int i = 0; i < records.count; ++i, w += LANES) {
    const Vec value = load(features + static_cast<int64_t>(splat[i]) * PASS);
    if (ahead) __builtin_prefetch(w + ahead * LANES);
    GS_UNROLL for (int p = 0; p < LANES; ++p) f[p] = fma(set(w[p]), value, f[p]);
  }
  GS_UNROLL for (int p = 0; p < LANES; ++p) store(rows[p], f[p]);
}

// sums[k] += sum_p w[p] rows[p], 16 channels at once.
GS_INLINE void add_feature_sums(const Records& records, const float (*rows)[LANES], float* sums, int64_t sums_stride) {
  const int32_t* const splat = records.splat;
  const float* w = records.w;
  const int count = records.count;
  Vec g[LANES];
  GS_UNROLL for (int p = 0; p < LANES; ++p) g[p] = load(rows[p]);
  for (int i = 0; i < count; ++i, w += LANES) {
    float* to = sums + splat[i] * sums_stride;
    Vec even = load(to), odd = zero();
    GS_UNROLL for (int p = 0; p < LANES; p += 2) {
      even = fma(set(w[p]), g[p], even);
      odd = fma(set(w[p + 1]), g[p + 1], odd);
    }
    store(to, even + odd);
  }
}

}  // namespace GS_ISA
}  // namespace gs
