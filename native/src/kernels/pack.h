// Raw parameters -> what projection reads.
//
// With R the rotation of the normalised quaternion and s = exp(log_scales), the covariance is R diag(s^2) R^T; opacity
// is the logistic function of its logit, kept as log2 o = -log2(1 + 2^(-logit log2 e)). Colours that are the same from all
// sides (one coefficient of spherical harmonics) are packed, too; others follow per view (shade.h).
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

// The first `valid` of 16 rows of `width` floats as `width` vectors; missing rows repeat the last one.
template <int width>
GS_INLINE void load_rows(const float* p, int valid, Vec* out) {
  alignas(64) float t[width][LANES];
  for (int i = 0; i < LANES; ++i)
    for (int k = 0; k < width; ++k) t[k][i] = p[(i < valid ? i : valid - 1) * width + k];
  for (int k = 0; k < width; ++k) out[k] = load(t[k]);
}

// Rotation matrix (row major) of a unit quaternion.
GS_INLINE void rotation(const Vec* q, Vec* R) {
  const Vec w = q[0], x = q[1], y = q[2], z = q[3], one = set(1.f), two = set(2.f);
  R[0] = one - two * fma(y, y, z * z);
  R[1] = two * (x * y - w * z);
  R[2] = two * (x * z + w * y);
  R[3] = two * (x * y + w * z);
  R[4] = one - two * fma(x, x, z * z);
  R[5] = two * (y * z - w * x);
  R[6] = two * (x * z - w * y);
  R[7] = two * (y * z + w * x);
  R[8] = one - two * fma(x, x, y * y);
}

GS_INLINE Vec normalize(const Vec* raw, Vec* unit) {
  const Vec norm2 = fma(raw[0], raw[0], fma(raw[1], raw[1], fma(raw[2], raw[2], raw[3] * raw[3])));
  const Vec inverse = set(1.f) / vsqrt(norm2);
  for (int k = 0; k < 4; ++k) unit[k] = raw[k] * inverse;
  return inverse;
}

constexpr float SH_C0 = 0.28209479177387814f;

// A colour that is not a positive number becomes 0.
GS_INLINE Vec limited_color(Vec c) { return keep(both(gt(c, zero()), gt(set(3e38f), c)), c); }

GS_INLINE Vec log2_sigmoid(Vec logit) {
  const Vec limited = clamp(logit, set(-80.f), set(80.f));
  const Vec result = -log2_exact(set(1.f) + exp2_exact(limited * set(-LOG2E)));
  return select(ge(logit, logit), result, logit);  // NaN stays NaN, so that the row is skipped later
}

// One chunk of CHUNK rows and its bounding sphere.
GS_INLINE void pack_chunk(Scene& scene, const Parameters& p, float extent_sigma, int64_t chunk) {
  const int64_t n = p.count, stride = scene.stride;
  Vec low[3], high[3];
  int invalid = 0;
  for (int k = 0; k < 3; ++k) low[k] = set(3e38f), high[k] = set(-3e38f);
  for (int64_t i = chunk * CHUNK; i < (chunk + 1) * CHUNK; i += LANES) {
    const int64_t left = n - i;
    float* out = scene.fields.data + i;
    if (left <= 0) {
      for (int k = 0; k < Scene::FIELDS; ++k) store(out + k * stride, set(k == Scene::LOG2_OPACITY ? -200.f : 0.f));
      continue;
    }
    const int valid = left < LANES ? static_cast<int>(left) : LANES;
    Vec mean[3], raw[4], q[4], scale[3], R[9], v[3];
    load_rows<3>(p.means + 3 * i, valid, mean);
    load_rows<4>(p.quats + 4 * i, valid, raw);
    load_rows<3>(p.log_scales + 3 * i, valid, scale);
    normalize(raw, q);
    rotation(q, R);
    for (int k = 0; k < 3; ++k) {
      scale[k] = exp2_exact(scale[k] * set(LOG2E));
      v[k] = scale[k] * scale[k];
    }
    Vec logit[1];
    load_rows<1>(p.opacity_logits + i, valid, logit);
    Vec log2_opacity = log2_sigmoid(logit[0]);
    log2_opacity = select(from_bits(0xffffu >> (LANES - valid)), log2_opacity, set(-200.f));
    auto covariance = [&](int a, int b) {
      return fma(R[3 * a] * R[3 * b], v[0],
                 fma(R[3 * a + 1] * R[3 * b + 1], v[1], R[3 * a + 2] * R[3 * b + 2] * v[2]));
    };
    Vec color[3] = {zero(), zero(), zero()};
    if (scene.colored) {
      load_rows<3>(p.sh + 3 * i, valid, color);
      for (int k = 0; k < 3; ++k) color[k] = limited_color(fma(set(SH_C0), color[k], set(0.5f)));
    }
    const Vec values[Scene::FIELDS] = {mean[0],          mean[1],          mean[2],          covariance(0, 0),
                                       covariance(0, 1), covariance(0, 2), covariance(1, 1), covariance(1, 2),
                                       covariance(2, 2), log2_opacity,     color[0],         color[1],
                                       color[2]};
    // Infinity minus itself is not a number, and that equals nothing: one sum tells whether all are finite.
    Vec probe = zero();
    for (int k = 0; k < Scene::FIELDS; ++k) probe = probe + (values[k] - values[k]);
    const uint32_t usable = bits(ge(probe, zero())), rows = 0xffffu >> (LANES - valid);
    invalid += __builtin_popcount(rows & ~usable);
    for (int k = 0; k < Scene::FIELDS; ++k) store(out + k * stride, values[k]);
    store(out + Scene::LOG2_OPACITY * stride, select(from_bits(usable), log2_opacity, set(-200.f)));
    const Vec reach = set(extent_sigma) * vmax(scale[0], vmax(scale[1], scale[2]));
    for (int k = 0; k < 3; ++k) {
      low[k] = vmin(mean[k] - reach, low[k]);  // NaN leaves the limit as it was
      high[k] = vmax(mean[k] + reach, high[k]);
    }
  }
  scene.invalid[chunk] = static_cast<uint8_t>(invalid);
  float* sphere = scene.spheres.data + 4 * chunk;
  float radius2 = 0.f;
  for (int k = 0; k < 3; ++k) {
    alignas(64) float lo[LANES], hi[LANES];
    store(lo, low[k]);
    store(hi, high[k]);
    for (int i = 1; i < LANES; ++i) {
      if (lo[i] < lo[0]) lo[0] = lo[i];
      if (hi[i] > hi[0]) hi[0] = hi[i];
    }
    sphere[k] = 0.5f * lo[0] + 0.5f * hi[0];
    const float half = 0.5f * hi[0] - 0.5f * lo[0];
    radius2 += half * half;
  }
  sphere[3] = __builtin_sqrtf(radius2) * 1.0001f;
}

// All chunks, or, where the rest of the scene is as the last call left it, only the `changed` ones.
inline void pack(Scene& scene, const Parameters& p, float extent_sigma, const int32_t* changed, int64_t changed_count,
                 int threads) {
  const int64_t chunks = (p.count + CHUNK - 1) / CHUNK;
  scene.count = p.count;
  scene.padded = chunks * CHUNK;
  const bool colored = p.sh_count == 1;
  if (colored != scene.colored) changed = nullptr;
  scene.colored = colored;
  if (scene.padded > scene.stride) {
    const int64_t room = chunks + chunks / 8;
    scene.fields.reserve(static_cast<size_t>(room | 1) * CHUNK * Scene::FIELDS);
    scene.spheres.reserve(static_cast<size_t>(room | 1) * 4);
    scene.invalid.reserve(static_cast<size_t>(room | 1));
    scene.stride = (room | 1) * CHUNK;  // odd, so that the fields of a row do not compete for the same cache lines
    changed = nullptr;
  }
  const int64_t count = changed ? changed_count : chunks;
  constexpr int64_t TASK = BLOCK / CHUNK;
  parallel(threads, (count + TASK - 1) / TASK, [&](int64_t task, int) {
    const int64_t stop = (task + 1) * TASK < count ? (task + 1) * TASK : count;
    for (int64_t i = task * TASK; i < stop; ++i) pack_chunk(scene, p, extent_sigma, changed ? changed[i] : i);
  });
}

}  // namespace GS_ISA
}  // namespace gs
