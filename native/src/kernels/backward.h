// Gradients of the returned images with respect to the raw parameters.
//
// 1. Blending (records.h). The returned depth is sum w z / alpha and the background adds T, so per pixel
//        g_z = g_depth / alpha,  g_w = g_alpha - g_depth depth / alpha - g_rgb . background
//    and q_i = g_rgb . rgb_i + g_z z_i + g_w (+ g_features . features_i). The value gradients are sum_p w g.
// 2. Geometry of the splat. With s = alpha dL/dalpha and d = pixel - centre, ln alpha = ln o - (A dx^2 + 2 B dx dy + C
// dy^2)/2:
//        dL/d ln o = sum s,  dL/d centre = sum s (A dx + B dy, B dx + C dy),
//        dL/dA = -sum s dx^2 / 2,  dL/dB = -sum s dx dy,  dL/dC = -sum s dy^2 / 2.
// 3. Projection backwards, 16 Gaussians at a time: dL/dS = -Q V Q for Q = S^-1, then the chain through
//    S = U U^T + eps2d I, U = J W R diag(s).
// 4. Camera pose. For the world-to-camera transform T' = exp(xi) T with the twist xi = (omega, v), a mean m in the camera
//    frame moves by omega x m + v, W by [omega]_x W, and the camera's centre in the world by -W^T v. With g the gradient
//    with respect to m and M = dL/dW W^T
//        dL/d omega = sum m x g + (M_21 - M_12, M_02 - M_20, M_10 - M_01),  dL/dv = sum g + W dL/d(viewing direction).
#pragma once

#include "pack.h"
#include "project.h"
#include "records.h"
#include "shade.h"
#include "transpose.h"

namespace gs {
namespace GS_ISA {

struct BackwardPass {
  const float* features;      // of this pass
  const float* feature_grad;  // null: none asked for
  int64_t stride;             // channels of all passes
  int count;                  // channels of this pass, at most those that it is compiled for
  const float* background;
  Images images;
  ImageGradients grads;
  bool features_move_geometry;
};

// The gradients that a block's pixels bring, in the forms that the passes over its records want.
struct BlockGradients {
  Vec w = zero(), value[4] = {zero(), zero(), zero(), zero()}, feature[PASS];
  alignas(64) float value_rows[4][LANES], feature_rows[LANES][LANES];
};

template <bool color, int channels>
GS_INLINE void load_gradients(const BackwardPass& pass, const PixelBlock& block, int64_t width, BlockGradients& g) {
  std::memset(g.value_rows, 0, sizeof g.value_rows);
  if (color) {
    if (pass.grads.rgb) {
      for (int r = 0; r < block.height; ++r)
        for (int c = 0; c < block.width; ++c)
          for (int k = 0; k < 3; ++k)
            g.value_rows[k][4 * r + c] = pass.grads.rgb[3 * ((block.y + r) * width + block.x + c) + k];
      for (int k = 0; k < 3; ++k) {
        g.value[k] = load(g.value_rows[k]);
        if (pass.background) g.w = g.w - g.value[k] * set(pass.background[k]);
      }
    }
    if (pass.grads.alpha) g.w = g.w + get(pass.grads.alpha, block, width);
    if (pass.grads.depth) {
      const Vec alpha = get(pass.images.alpha, block, width), depth = get(pass.images.depth, block, width);
      g.value[3] = keep(gt(alpha, zero()), get(pass.grads.depth, block, width) / alpha);
      g.w = g.w - g.value[3] * depth;
      store(g.value_rows[3], g.value[3]);
    }
  }
  if (channels) {
    load_pixels(pass.feature_grad, pass.stride, pass.count, width, block, g.feature_rows);
    prefetch_next_pixels(pass.feature_grad, pass.stride, width, block);
    if (pass.features_move_geometry) {
      for (int p = 0; p < LANES; ++p) g.feature[p] = load(g.feature_rows[p]);
      transpose16(g.feature);
    }
  }
}

// Sums of one tile, and which of its splats they hold anything of.
struct TileSums {
  float* sums;
  uint8_t* drawn;
  int64_t width;

  TileSums(const TileList& list, Scratch& scratch, int64_t floats) : width(floats) {
    sums = scratch.sums.reserve(list.length * width);
    std::memset(sums, 0, list.length * width * sizeof(float));
    drawn = scratch.drawn.reserve(list.length);
    std::memset(drawn, 0, list.length);
  }

  GS_INLINE void mark(const Records& records) const {
    for (int i = 0; i < records.count; ++i) drawn[records.splat[i]] = 1;
  }

  // Leaves them as the partials of the tile's entries.
  void flush(View& view, const TileList& list, int64_t tile) const {
    constexpr int64_t AHEAD = 16;
    const int x = static_cast<int>(tile % view.tiles_x), y = static_cast<int>(tile / view.tiles_x);
    for (int64_t k = 0; k < list.filled; ++k) {
      if (k + AHEAD < list.filled) {
        __builtin_prefetch(view.rects.data + list.position[k + AHEAD]);
        __builtin_prefetch(view.first.data + list.position[k + AHEAD]);
      }
      if (!drawn[k]) continue;
      const int64_t e = entry_of(view, list.position[k], x, y);
      for (int i = 0; i < width; i += LANES) store(view.partials.data + e * width + i, load(sums + k * width + i));
      view.touched[e] = 1;
    }
  }
};

template <int WIDTH>
GS_INLINE void prefetch_partials(const View& view, int64_t position) {
  const float* partial = view.partials.data + static_cast<int64_t>(view.first[position]) * WIDTH;
  for (int k = 0; k < 2 * LANES; k += LANES) __builtin_prefetch(partial + k);
}

template <bool color, int channels>
void backward_tile(View& view, TileList& list, const BackwardPass& pass, int64_t tile, Scratch& scratch) {
  const bool features_move_geometry = channels && pass.features_move_geometry;
  if (features_move_geometry) list.carry_features(pass.features, pass.count, pass.stride);
  const TileSums out(list, scratch, channels ? 2 * LANES : LANES);
  Records records(list, scratch);
  const Vec alpha_max = set(view.settings.alpha_max);
  for_each_block(view, list, [&](const PixelBlock& block) {
    record(view, list, block, records, [](int, Vec) __attribute__((always_inline)) {});
    if (records.count == 0) return;
    BlockGradients g;
    load_gradients<color, channels>(pass, block, view.camera.width, g);
    out.mark(records);
    if (features_move_geometry)
      composite_backward<color, channels>(list, records, alpha_max, g.w, g.value, g.feature);
    else if (color)
      composite_backward<color, 0>(list, records, alpha_max, g.w, g.value, nullptr);
    if (color || features_move_geometry) add_splat_sums<color>(records, block, g.value_rows, out.sums, out.width);
    if (channels) add_feature_sums(records, g.feature_rows, out.sums + LANES, out.width);
  });
  out.flush(view, list, tile);
}

// Gradients of up to 16 neighbouring visible splats with respect to their raw parameters, splats in the lanes.
struct SplatGroup {
  int lanes;
  uint32_t seen;              // lanes that some pixel drew
  int64_t visible, position;  // of the first one
  int64_t row[LANES];
  Vec raw[10], log2_opacity;  // means, quats, log_scales as they are
  Vec mean[3], quat[4], log_scale[3], logit, dc[3];
  Vec means2d_norm, radius;
  Vec feature[LANES];         // rows: the second 16 floats of a splat's partials, if there are any
  alignas(64) float sh_rest[LANES][3 * MAX_SH - 3];  // where the map has more than one coefficient
};

// Gradient of the colour with respect to the coefficients beyond the first, and through the viewing direction to the mean.
inline void shade_backward(const Parameters& p, const CameraCentre& centre, int64_t row, const float* g_color,
                           float* g_sh_rest, float* g_mean) {
  float values[MAX_SH], gradient[MAX_SH][3], d[3], g_d[3] = {};
  const float distance = direction(p.means + 3 * row, centre, d);
  harmonics(d, p.sh_count, values, gradient);
  const float* sh = p.sh + row * p.sh_count * 3;
  for (int k = 1; k < p.sh_count; ++k) {
    float weight = 0.f;
    for (int c = 0; c < 3; ++c) {
      g_sh_rest[3 * k - 3 + c] = values[k] * g_color[c];
      weight += g_color[c] * sh[3 * k + c];
    }
    for (int i = 0; i < 3; ++i) g_d[i] += weight * gradient[k][i];
  }
  const float along = g_d[0] * d[0] + g_d[1] * d[1] + g_d[2] * d[2];
  for (int i = 0; i < 3; ++i) g_mean[i] = (g_d[i] - along * d[i]) / distance;
}

// Adds up the partials of the last pass over the tiles (and, if `accumulated`, what earlier ones left in
// view.splat_gradients), and takes them through the projection. take(SplatGroup) gets the result, from several threads;
// soon(row) hears of its rows in advance. pose_out: (6,) or null.
template <int WIDTH, class Soon, class Take>
void project_backward(View& view, const Parameters& p, bool accumulated, float* pose_out, int threads, Soon&& soon,
                      Take&& take) {
  const Camera& cam = view.camera;
  const Settings& settings = view.settings;
  const ViewLimits limits = view_limits(cam);
  const CameraCentre centre = camera_centre(cam);
  const float extent2 = settings.extent_sigma * settings.extent_sigma,
              log2_alpha_min = __builtin_log2f(settings.alpha_min);
  const float *R = cam.R, *t = cam.t;
  double* pose_partials = pose_out ? view.pose_partials.reserve(view.blocks * 6) : nullptr;

  parallel(threads, view.blocks, [&](int64_t block, int) {
    const int64_t count = view.base[block + 1] - view.base[block];
    Vec pose[6];
    for (int k = 0; k < 6; ++k) pose[k] = zero();
    for (int64_t first = 0; first < count; first += LANES) {
      SplatGroup s;
      s.lanes = count - first < LANES ? static_cast<int>(count - first) : LANES;
      s.visible = view.base[block] + first;
      s.position = block * BLOCK + first;
      s.seen = 0;

      for (int64_t i = s.position + 2 * LANES; i < s.position + 3 * LANES && i < block * BLOCK + count; ++i) {
        const int64_t row = view.row[i];
        prefetch_partials<WIDTH>(view, i);
        __builtin_prefetch(p.means + 3 * row);
        __builtin_prefetch(p.quats + 4 * row);
        __builtin_prefetch(p.log_scales + 3 * row);
        soon(row);
      }
      alignas(64) float raw[10][LANES], splat[5][LANES];
      Vec g[LANES];
      uint32_t limited[3] = {};
      for (int i = 0; i < LANES; ++i) {
        const int j = i < s.lanes ? i : s.lanes - 1;
        const int64_t row = s.row[i] = view.row[s.position + j];
        const Splat& from = view.splats[s.position + j];
        for (int k = 0; k < 3; ++k) raw[k][i] = p.means[3 * row + k], raw[7 + k][i] = p.log_scales[3 * row + k];
        for (int k = 0; k < 4; ++k) raw[3 + k][i] = p.quats[4 * row + k];
        splat[0][i] = from.a, splat[1][i] = from.b, splat[2][i] = from.c, splat[3][i] = from.log2_opacity,
        splat[4][i] = from.z;
        for (int k = 0; k < 3; ++k) limited[k] |= (from.color[k] > 0.f ? 0u : 1u) << i;
        if (i >= s.lanes) {
          g[i] = zero();
          continue;
        }
        Vec total[WIDTH / LANES];
        const bool seen = sum_partials<WIDTH>(view, s.position + i, total);
        s.seen |= static_cast<uint32_t>(seen) << i;
        g[i] = accumulated ? total[0] + load(view.splat_gradients.data + (s.visible + i) * LANES) : total[0];
        if (WIDTH > LANES) s.feature[i] = total[WIDTH / LANES - 1];
      }
      transpose16(g);
      for (int k = 0; k < 10; ++k) s.raw[k] = load(raw[k]);
      s.log2_opacity = load(splat[3]);

      // Conic Q = (A B; B C) and dL/dS = -Q V Q.
      const Vec A = load(splat[0]) * set(-2.f * LN2), B = load(splat[1]) * set(-LN2),
                C = load(splat[2]) * set(-2.f * LN2);
      const Vec half = set(-0.5f), va = half * g[S_XX], vb = half * g[S_XY], vc = half * g[S_YY];
      const Vec m00 = fma(A, va, B * vb), m01 = fma(A, vb, B * vc), m10 = fma(B, va, C * vb), m11 = fma(B, vb, C * vc);
      const Vec s00 = -fma(m00, A, m01 * B), s01 = -fma(m00, B, m01 * C), s11 = -fma(m10, B, m11 * C);

      Vec unit[4], Q[9], scale[3];
      const Vec inv_norm = normalize(s.raw + 3, unit);
      rotation(unit, Q);
      for (int k = 0; k < 3; ++k) scale[k] = exp2_exact(s.raw[7 + k] * set(LOG2E));

      const Vec x = s.raw[0], y = s.raw[1], z = s.raw[2];
      const Vec X = fma(set(R[0]), x, fma(set(R[1]), y, fma(set(R[2]), z, set(t[0]))));
      const Vec Y = fma(set(R[3]), x, fma(set(R[4]), y, fma(set(R[5]), z, set(t[1]))));
      const Vec Z = load(splat[4]), inv_z = set(1.f) / Z, tx = X * inv_z, ty = Y * inv_z;
      const Vec ax = clamp(tx, set(limits.x_low), set(limits.x_high)),
                ay = clamp(ty, set(limits.y_low), set(limits.y_high));
      const Mask free_x = both(ge(ax, tx), ge(tx, ax)), free_y = both(ge(ay, ty), ge(ty, ay));
      const Vec j00 = set(cam.fx) * inv_z, j02 = -(j00 * ax), j11 = set(cam.fy) * inv_z, j12 = -(j11 * ay);
      Vec u[3], v[3], gu[3], gv[3];  // rows of J W and their gradients
      for (int k = 0; k < 3; ++k) {
        u[k] = fma(j00, set(R[k]), j02 * set(R[6 + k]));
        v[k] = fma(j11, set(R[3 + k]), j12 * set(R[6 + k]));
        gu[k] = gv[k] = zero();
      }
      Vec g_rotation[9];
      for (int k = 0; k < 3; ++k) {  // column k of U = J W R diag(s)
        const Vec U0 = fma(u[0], Q[k], fma(u[1], Q[3 + k], u[2] * Q[6 + k])) * scale[k];
        const Vec U1 = fma(v[0], Q[k], fma(v[1], Q[3 + k], v[2] * Q[6 + k])) * scale[k];
        const Vec g0 = set(2.f) * fma(s00, U0, s01 * U1), g1 = set(2.f) * fma(s01, U0, s11 * U1);
        s.log_scale[k] = zero();
        for (int r = 0; r < 3; ++r) {
          const Vec g_m = fma(u[r], g0, v[r] * g1), m = Q[3 * r + k] * scale[k];
          g_rotation[3 * r + k] = g_m * scale[k];
          s.log_scale[k] = fma(g_m, m, s.log_scale[k]);
          gu[r] = fma(g0, m, gu[r]);
          gv[r] = fma(g1, m, gv[r]);
        }
      }
      auto dot = [](const Vec* a, const float* b) {
        return fma(a[0], set(b[0]), fma(a[1], set(b[1]), a[2] * set(b[2])));
      };
      const Vec g_j00 = dot(gu, R), g_j02 = dot(gu, R + 6), g_j11 = dot(gv, R + 3), g_j12 = dot(gv, R + 6);
      const Vec gx = fma(A, g[S_X], B * g[S_Y]), gy = fma(B, g[S_X], C * g[S_Y]);
      Vec g_X = gx * j00, g_Y = gy * j11;
      Vec g_Z = g[W_Z] - fma(gx * j00, tx, gy * j11 * ty);
      g_Z = g_Z - fma(g_j00, j00, g_j11 * j11) * inv_z - fma(g_j02, j02, g_j12 * j12) * inv_z;
      const Vec slope_x = keep(free_x, g_j02 * j00 * inv_z), slope_y = keep(free_y, g_j12 * j11 * inv_z);
      g_X = g_X - slope_x;
      g_Y = g_Y - slope_y;
      g_Z = g_Z + fma(slope_x, tx, slope_y * ty);

      const Mask free_color[3] = {from_bits(~limited[0] & 0xffffu), from_bits(~limited[1] & 0xffffu),
                                  from_bits(~limited[2] & 0xffffu)};
      for (int k = 0; k < 3; ++k) {
        g[W_RED + k] = keep(free_color[k], g[W_RED + k]);
        s.dc[k] = set(SH_C0) * g[W_RED + k];
      }
      alignas(64) float through_direction[3][LANES] = {};
      if (p.sh_count > 1) {
        alignas(64) float color[3][LANES];
        for (int k = 0; k < 3; ++k) store(color[k], g[W_RED + k]);
        for (int i = 0; i < s.lanes; ++i) {
          const float g_color[3] = {color[0][i], color[1][i], color[2][i]};
          float g_mean[3];
          shade_backward(p, centre, s.row[i], g_color, s.sh_rest[i], g_mean);
          for (int k = 0; k < 3; ++k) through_direction[k][i] = g_mean[k];
        }
      }
      for (int k = 0; k < 3; ++k)
        s.mean[k] = fma(set(R[k]), g_X, fma(set(R[3 + k]), g_Y, fma(set(R[6 + k]), g_Z, load(through_direction[k]))));
      if (pose_out) {
        const Mask valid = from_bits(0xffffu >> (LANES - s.lanes));
        Vec d[3];
        for (int k = 0; k < 3; ++k) d[k] = load(through_direction[k]);
        const Vec m01 = j00 * dot(gu, R + 3), m02 = j00 * dot(gu, R + 6), m10 = j11 * dot(gv, R), m12 = j11 * g_j12,
                  m20 = fma(j02, g_j00, j12 * dot(gv, R)), m21 = fma(j02, dot(gu, R + 3), j12 * g_j11);
        const Vec twist[6] = {fma(Y, g_Z, m21 - fma(Z, g_Y, m12)), fma(Z, g_X, m02 - fma(X, g_Z, m20)),
                              fma(X, g_Y, m10 - fma(Y, g_X, m01)), g_X + dot(d, R),
                              g_Y + dot(d, R + 3),                 g_Z + dot(d, R + 6)};
        for (int k = 0; k < 6; ++k) pose[k] = pose[k] + keep(valid, twist[k]);
      }
      {
        const Vec *q = unit, *r = g_rotation, two = set(2.f);
        const Vec w = q[0], qx = q[1], qy = q[2], qz = q[3];
        Vec* gq = s.quat;
        gq[0] = two * (qx * (r[7] - r[5]) + qy * (r[2] - r[6]) + qz * (r[3] - r[1]));
        gq[1] = two * (qy * (r[1] + r[3]) + qz * (r[2] + r[6]) + w * (r[7] - r[5]) - two * qx * (r[4] + r[8]));
        gq[2] = two * (qx * (r[1] + r[3]) + qz * (r[5] + r[7]) + w * (r[2] - r[6]) - two * qy * (r[0] + r[8]));
        gq[3] = two * (qx * (r[2] + r[6]) + qy * (r[5] + r[7]) + w * (r[3] - r[1]) - two * qz * (r[0] + r[4]));
        const Vec along = fma(gq[0], w, fma(gq[1], qx, fma(gq[2], qy, gq[3] * qz)));
        for (int k = 0; k < 4; ++k) gq[k] = (gq[k] - along * q[k]) * inv_norm;
      }
      s.logit = g[S_1] * (set(1.f) - exp2_exact(s.log2_opacity));
      s.means2d_norm = vsqrt(fma(gx, gx, gy * gy));
      const Vec reach2 = vmin((s.log2_opacity - set(log2_alpha_min)) * set(2.f * LN2), set(extent2));
      s.radius = vsqrt(vmax(reach2 * vmax(A, C) / fma(A, C, -(B * B)), zero()));
      take(s);
    }
    if (pose_partials)
      for (int k = 0; k < 6; ++k) pose_partials[block * 6 + k] = sum(pose[k]);
  });
  if (pose_out)
    for (int k = 0; k < 6; ++k) {
      double total = 0.0;
      for (int64_t block = 0; block < view.blocks; ++block) total += pose_partials[block * 6 + k];
      pose_out[k] = static_cast<float>(total);
    }
}

// Rows of `width` floats from 16 vectors' worth of columns, for `count` lanes.
GS_INLINE void store_rows(float* out, int width, int count, const Vec* columns) {
  alignas(64) float t[4][LANES];
  for (int k = 0; k < width; ++k) store(t[k], columns[k]);
  for (int i = 0; i < count; ++i)
    for (int k = 0; k < width; ++k) out[i * width + k] = t[k][i];
}

inline void store_gradients(const Gradients& out, int sh_count, const SplatGroup& s) {
  const int64_t at = s.visible;
  if (out.means) store_rows(out.means + 3 * at, 3, s.lanes, s.mean);
  if (out.quats) store_rows(out.quats + 4 * at, 4, s.lanes, s.quat);
  if (out.log_scales) store_rows(out.log_scales + 3 * at, 3, s.lanes, s.log_scale);
  if (out.opacity_logits) store_rows(out.opacity_logits + at, 1, s.lanes, &s.logit);
  if (out.means2d_norm) store_rows(out.means2d_norm + at, 1, s.lanes, &s.means2d_norm);
  if (out.radii) store_rows(out.radii + at, 1, s.lanes, &s.radius);
  if (!out.sh) return;
  if (sh_count == 1) return store_rows(out.sh + 3 * at, 3, s.lanes, s.dc);
  alignas(64) float dc[3][LANES];
  for (int k = 0; k < 3; ++k) store(dc[k], s.dc[k]);
  for (int i = 0; i < s.lanes; ++i) {
    float* row = out.sh + (at + i) * sh_count * 3;
    for (int k = 0; k < 3; ++k) row[k] = dc[k][i];
    std::memcpy(row + 3, s.sh_rest[i], (sh_count - 1) * 3 * sizeof(float));
  }
}

template <bool color, int channels>
void backward_pass(View& view, const Parameters& p, const BackwardPass& pass, bool accumulated, bool last,
                   float* feature_gradients, const Gradients& out, int threads) {
  constexpr int WIDTH = channels ? 2 * LANES : LANES;
  begin_partials(view, WIDTH);
  for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
    TileList list(view, tile, scratch);
    backward_tile<color, channels>(view, list, pass, tile, scratch);
  });
  auto store_features = [&](int64_t visible, Vec values) __attribute__((always_inline)) {
    alignas(64) float t[LANES];
    store(t, values);
    std::memcpy(feature_gradients + visible * pass.stride, t, pass.count * sizeof(float));
  };
  if (last)
    return project_backward<WIDTH>(
        view, p, accumulated, out.pose, threads, [](int64_t) {},
        [&](const SplatGroup& s) {
          store_gradients(out, p.sh_count, s);
          if (channels)
            for (int i = 0; i < s.lanes; ++i) store_features(s.visible + i, s.feature[i]);
        });
  for_each_visible(view, threads, [&](int64_t position, int64_t visible, int64_t) {
    Vec total[WIDTH / LANES];
    sum_partials<WIDTH>(view, position, total);
    float* sums = view.splat_gradients.data + visible * LANES;
    store(sums, accumulated ? load(sums) + total[0] : total[0]);
    if (channels) store_features(visible, total[WIDTH / LANES - 1]);
  });
}

inline void backward(View& view, const Parameters& p, const float* features, int channels, const float* background,
                     const Images& images, const ImageGradients& grads, bool features_move_geometry,
                     const Gradients& out, int threads) {
  if (!grads.features || !out.features) channels = 0;
  if (channels > LANES) view.splat_gradients.reserve(view.visible * LANES);
  const bool geometry = grads.rgb || grads.depth || grads.alpha || features_move_geometry;
  int done = 0;
  bool first = true;
  do {
    const int left = channels - done, n = left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : 0;
    const BackwardPass pass = {features + done, grads.features + done, channels, n, background, images,
                               grads,           features_move_geometry};
    auto run = [&](auto with_color) {
      constexpr bool color = decltype(with_color)::value;
      const bool last = done + n >= channels;
      float* to = out.features + done;
      switch (n) {
        case 16:
          return backward_pass<color, 16>(view, p, pass, !first, last, to, out, threads);
        case 8:
          return backward_pass<color, 8>(view, p, pass, !first, last, to, out, threads);
        case 4:
          return backward_pass<color, 4>(view, p, pass, !first, last, to, out, threads);
        default:
          return backward_pass<color, 0>(view, p, pass, !first, last, to, out, threads);
      }
    };
    if (first && geometry)  // the first pass also carries colour, depth and alpha
      run(Constant<true>{});
    else
      run(Constant<false>{});
    first = false;
    done += n;
  } while (done < channels);
}

}  // namespace GS_ISA
}  // namespace gs
