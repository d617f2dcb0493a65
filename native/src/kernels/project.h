// Projection of the packed scene: frustum culling by chunk, then 16 Gaussians at a time.
//
// With (X, Y, Z) the mean in the camera frame, W the rotation to it, and the Jacobian of the perspective projection at
// the mean (its X/Z and Y/Z limited to the view plus 30 % of half the field of view, as the linearisation is bad
// beyond)
//     J = [fx/Z, 0, -fx X/Z^2; 0, fy/Z, -fy Y/Z^2],
// the 2D covariance is S = J W cov W^T J^T + eps2d I and alpha = o exp(-q/2), q = d^T S^-1 d. The factors -1/2 and log2
// e are folded into S^-1. With S0 = S - eps2d I the determinant is computed as det S0 + eps2d tr S0 + eps2d^2, which
// cannot vanish by cancellation. A Gaussian reaches to q = min(extent_sigma^2, 2 ln(o / alpha_min)).
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

// Limits of X/Z and Y/Z in the Jacobian.
struct ViewLimits {
  float x_low, x_high, y_low, y_high;
};

GS_INLINE ViewLimits view_limits(const Camera& c) {
  const float margin_x = 0.15f * c.width / c.fx, margin_y = 0.15f * c.height / c.fy;
  return {-(c.cx / c.fx + margin_x), (c.width - c.cx) / c.fx + margin_x, -(c.cy / c.fy + margin_y),
          (c.height - c.cy) / c.fy + margin_y};
}

// Tests bounding spheres of chunks; never rejects a Gaussian whose footprint reaches into the image.
class Frustum {
 public:
  Frustum(const Camera& c, const Settings& s) : camera_(c), near_(s.near_plane) {
    const float margin = s.extent_sigma * __builtin_sqrtf(s.eps2d > 0.f ? s.eps2d : 0.f) + 1.f;
    const ViewLimits limits = view_limits(c);
    auto larger = [](float a, float b) { return a > b ? a : b; };
    slope_x_ = larger(c.width - c.cx, c.cx) / c.fx + margin / c.fx;
    slope_y_ = larger(c.height - c.cy, c.cy) / c.fy + margin / c.fy;
    const float ax = larger(larger(limits.x_high, -limits.x_low), slope_x_);
    const float ay = larger(larger(limits.y_high, -limits.y_low), slope_y_);
    norm_x_ = __builtin_sqrtf(1.f + ax * ax);
    norm_y_ = __builtin_sqrtf(1.f + ay * ay);
  }

  bool outside(const float* sphere) const {
    const float *R = camera_.R, *t = camera_.t, r = sphere[3];
    const float x = R[0] * sphere[0] + R[1] * sphere[1] + R[2] * sphere[2] + t[0];
    const float y = R[3] * sphere[0] + R[4] * sphere[1] + R[5] * sphere[2] + t[1];
    const float z = R[6] * sphere[0] + R[7] * sphere[1] + R[8] * sphere[2] + t[2];
    return z + r < near_ || __builtin_fabsf(x) - slope_x_ * z > r * norm_x_ ||
           __builtin_fabsf(y) - slope_y_ * z > r * norm_y_;
  }

 private:
  const Camera& camera_;
  float near_, slope_x_, slope_y_, norm_x_, norm_y_;
};

inline void project(View& view, const Scene& scene, int threads) {
  const Camera& cam = view.camera;
  const Settings& settings = view.settings;
  const float *R = cam.R, *t = cam.t;
  const ViewLimits limits = view_limits(cam);
  const Frustum frustum(cam, settings);
  const float log2_alpha_min = __builtin_log2f(settings.alpha_min);
  const float extent2 = settings.extent_sigma * settings.extent_sigma;
  const float per_tile = 1.f / view.tile_size;

  view.rows = scene.count;
  view.blocks = (scene.padded + BLOCK - 1) / BLOCK;
  Splat* splats = view.splats.reserve(view.blocks * BLOCK);
  float* depth = view.depth.reserve(view.blocks * BLOCK);
  Rect* rects = view.rects.reserve(view.blocks * BLOCK);
  uint32_t* rows = view.row.reserve(view.blocks * BLOCK);
  uint32_t* base = view.base.reserve(view.blocks + 1);
  uint8_t* owner = view.owner.reserve(view.blocks);
  const int64_t tiles = static_cast<int64_t>(view.tiles_x) * view.tiles_y;
  const int parts = effective_threads(threads);
  uint32_t* counts = view.tile_counts.reserve(parts * tiles);
  std::memset(counts, 0, parts * tiles * sizeof *counts);
  int64_t entries[256] = {};  // of each thread

  parallel(threads, view.blocks, [&](int64_t block, int thread) {
    owner[block] = static_cast<uint8_t>(thread);
    uint32_t* count = counts + thread * tiles;
    int64_t area = 0;
    const int64_t begin = block * BLOCK, end = begin + BLOCK < scene.padded ? begin + BLOCK : scene.padded;
    int64_t out = begin;
    for (int64_t chunk = begin; chunk < end; chunk += CHUNK) {
      if (frustum.outside(scene.spheres.data + chunk / CHUNK * 4)) continue;
      for (int64_t i = chunk; i < chunk + CHUNK; i += LANES) {
        auto field = [&](int k) { return load(scene.field(k) + i); };
        const Vec x = field(Scene::X), y = field(Scene::Y), z = field(Scene::Z), log2_o = field(Scene::LOG2_OPACITY);
        const Vec Z = fma(set(R[6]), x, fma(set(R[7]), y, fma(set(R[8]), z, set(t[2]))));
        const Vec reach2 = vmin((log2_o - set(log2_alpha_min)) * set(2.f * LN2), set(extent2));
        Mask ok = both(both(gt(Z, set(settings.near_plane)), gt(set(settings.far_plane), Z)),
                       ge(log2_o, set(log2_alpha_min)));
        if (!any(ok)) continue;
        const Vec X = fma(set(R[0]), x, fma(set(R[1]), y, fma(set(R[2]), z, set(t[0]))));
        const Vec Y = fma(set(R[3]), x, fma(set(R[4]), y, fma(set(R[5]), z, set(t[1]))));
        const Vec inv_z = set(1.f) / Z, tx = X * inv_z, ty = Y * inv_z;
        const Vec ax = clamp(tx, set(limits.x_low), set(limits.x_high)),
                  ay = clamp(ty, set(limits.y_low), set(limits.y_high));

        const Vec j00 = set(cam.fx) * inv_z, j02 = -(j00 * ax), j11 = set(cam.fy) * inv_z, j12 = -(j11 * ay);
        Vec u[3], v[3];  // rows of J W
        for (int k = 0; k < 3; ++k) {
          u[k] = fma(j00, set(R[k]), j02 * set(R[6 + k]));
          v[k] = fma(j11, set(R[3 + k]), j12 * set(R[6 + k]));
        }
        const Vec xx = field(Scene::XX), xy = field(Scene::XY), xz = field(Scene::XZ), yy = field(Scene::YY),
                  yz = field(Scene::YZ), zz = field(Scene::ZZ);
        const Vec cu0 = fma(xx, u[0], fma(xy, u[1], xz * u[2])), cu1 = fma(xy, u[0], fma(yy, u[1], yz * u[2])),
                  cu2 = fma(xz, u[0], fma(yz, u[1], zz * u[2]));
        const Vec cv0 = fma(xx, v[0], fma(xy, v[1], xz * v[2])), cv1 = fma(xy, v[0], fma(yy, v[1], yz * v[2])),
                  cv2 = fma(xz, v[0], fma(yz, v[1], zz * v[2]));
        const Vec s00 = fma(u[0], cu0, fma(u[1], cu1, u[2] * cu2)), s11 = fma(v[0], cv0, fma(v[1], cv1, v[2] * cv2)),
                  s01 = fma(v[0], cu0, fma(v[1], cu1, v[2] * cu2));
        const Vec eps = set(settings.eps2d);
        const Vec S00 = s00 + eps, S11 = s11 + eps;
        const Vec det = fma(eps, s00 + s11 + eps, vmax(fma(s00, s11, -(s01 * s01)), zero()));
        const Vec inv_det = set(1.f) / det;
        const Vec a = set(-0.5f * LOG2E) * S11 * inv_det, b = set(LOG2E) * s01 * inv_det,
                  c = set(-0.5f * LOG2E) * S00 * inv_det;

        const Vec px = fma(set(cam.fx), tx, set(cam.cx)), py = fma(set(cam.fy), ty, set(cam.cy));
        const Vec hx = vsqrt(reach2 * S00), hy = vsqrt(reach2 * S11);
        const Vec left = px - hx, right = px + hx, top = py - hy, bottom = py + hy;
        // Comparisons are false for NaN, so anything that is not a finite ellipse ends here.
        const Vec big = set(1e30f), far_px = set(1e9f);
        ok = both(ok, both(gt(det, zero()),
                           both(gt(big, det), both(gt(big, vabs(a)), both(gt(big, vabs(b)), gt(big, vabs(c)))))));
        ok = both(ok, both(both(gt(far_px, vabs(px)), gt(far_px, vabs(py))), both(gt(big, hx), gt(big, hy))));
        ok = both(
            ok, both(both(ge(right, zero()), ge(bottom, zero())),
                     both(gt(set(static_cast<float>(cam.width)), left), gt(set(static_cast<float>(cam.height)), top))));
        uint32_t lanes = bits(ok);
        if (!lanes) continue;

        const Vec threshold = vmax(set(log2_alpha_min), log2_o - set(0.5f * LOG2E * extent2));
        const Vec last_x = set(view.tiles_x - 0.5f), last_y = set(view.tiles_y - 0.5f), inverse = set(per_tile);
        Vec table[LANES] = {px, py, a, b, c, log2_o, threshold, Z};
        for (int k = 0; k < 3; ++k) table[8 + k] = scene.colored ? field(Scene::RED + k) : zero();
        table[11] = zero();
        table[12] = truncated(clamp(left * inverse, zero(), last_x));
        table[13] = truncated(clamp(right * inverse, zero(), last_x));
        table[14] = truncated(clamp(top * inverse, zero(), last_y));
        table[15] = truncated(clamp(bottom * inverse, zero(), last_y));
        transpose16(table);
        alignas(64) float splat[LANES][LANES];
        for (int k = 0; k < LANES; ++k) store(splat[k], table[k]);
        for (; lanes; lanes &= lanes - 1, ++out) {
          const int k = __builtin_ctz(lanes);
          std::memcpy(splats + out, splat[k], sizeof(Splat));
          splats[out].row = static_cast<uint32_t>(i + k);
          depth[out] = splat[k][7];
          int32_t tile[4];
          std::memcpy(tile, splat[k] + 12, sizeof tile);
          rects[out] = {static_cast<uint16_t>(tile[0]), static_cast<uint16_t>(tile[1]), static_cast<uint16_t>(tile[2]),
                        static_cast<uint16_t>(tile[3])};
          rows[out] = static_cast<uint32_t>(i + k);
          area += (tile[1] - tile[0] + 1) * (tile[3] - tile[2] + 1);
          for (int y = tile[2]; y <= tile[3]; ++y)
            for (int x = tile[0]; x <= tile[1]; ++x) ++count[y * view.tiles_x + x];
        }
      }
    }
    base[block] = static_cast<uint32_t>(out - begin);
    entries[thread] += area;
  });

  view.entries = 0;
  for (int p = 0; p < parts; ++p) view.entries += entries[p];
  uint32_t total = 0;
  for (int64_t block = 0; block < view.blocks; ++block) {
    const uint32_t count = base[block];
    base[block] = total;
    total += count;
  }
  base[view.blocks] = total;
  view.visible = total;
}

}  // namespace GS_ISA
}  // namespace gs
