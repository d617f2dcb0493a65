// Colour of every visible Gaussian from its spherical harmonics, seen from the camera; negative colours become 0.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"
#include "pack.h"

namespace gs {
namespace GS_ISA {

constexpr int MAX_SH = 16;

struct CameraCentre {
  float v[3];
};

GS_INLINE CameraCentre camera_centre(const Camera& c) {
  CameraCentre r;
  for (int k = 0; k < 3; ++k) r.v[k] = -(c.R[k] * c.t[0] + c.R[3 + k] * c.t[1] + c.R[6 + k] * c.t[2]);
  return r;
}

// The first `count` (1, 4, 9, 16) real spherical harmonics of the unit direction d, with their signs as in 3D Gaussian
// Splatting; `gradient`, if not null, gets d value / d direction.
inline void harmonics(const float* d, int count, float* value, float (*gradient)[3]) {
  const float x = d[0], y = d[1], z = d[2], xx = x * x, yy = y * y, zz = z * z;
  auto put = [&](int k, float v, float gx, float gy, float gz) {
    value[k] = v;
    if (gradient) {
      gradient[k][0] = gx;
      gradient[k][1] = gy;
      gradient[k][2] = gz;
    }
  };
  put(0, SH_C0, 0, 0, 0);
  if (count < 4) return;
  constexpr float c1 = 0.4886025119029199f;
  put(1, -c1 * y, 0, -c1, 0);
  put(2, c1 * z, 0, 0, c1);
  put(3, -c1 * x, -c1, 0, 0);
  if (count < 9) return;
  constexpr float c20 = 1.0925484305920792f, c22 = 0.31539156525252005f, c24 = 0.5462742152960396f;
  put(4, c20 * x * y, c20 * y, c20 * x, 0);
  put(5, -c20 * y * z, 0, -c20 * z, -c20 * y);
  put(6, c22 * (2 * zz - xx - yy), -2 * c22 * x, -2 * c22 * y, 4 * c22 * z);
  put(7, -c20 * x * z, -c20 * z, 0, -c20 * x);
  put(8, c24 * (xx - yy), 2 * c24 * x, -2 * c24 * y, 0);
  if (count < 16) return;
  constexpr float c30 = 0.5900435899266435f, c31 = 2.890611442640554f, c32 = 0.4570457994644658f,
                  c33 = 0.3731763325901154f, c35 = 1.445305721320277f;
  put(9, -c30 * y * (3 * xx - yy), -6 * c30 * x * y, -c30 * (3 * xx - 3 * yy), 0);
  put(10, c31 * x * y * z, c31 * y * z, c31 * x * z, c31 * x * y);
  put(11, -c32 * y * (4 * zz - xx - yy), 2 * c32 * x * y, -c32 * (4 * zz - xx - 3 * yy), -8 * c32 * y * z);
  put(12, c33 * z * (2 * zz - 3 * xx - 3 * yy), -6 * c33 * x * z, -6 * c33 * y * z, c33 * (6 * zz - 3 * xx - 3 * yy));
  put(13, -c32 * x * (4 * zz - xx - yy), -c32 * (4 * zz - 3 * xx - yy), 2 * c32 * x * y, -8 * c32 * x * z);
  put(14, c35 * z * (xx - yy), 2 * c35 * x * z, -2 * c35 * y * z, c35 * (xx - yy));
  put(15, -c30 * x * (xx - 3 * yy), -c30 * (3 * xx - 3 * yy), 6 * c30 * x * y, 0);
}

// Unit direction from the camera to a mean; returns the distance.
GS_INLINE float direction(const float* mean, const CameraCentre& centre, float* d) {
  for (int k = 0; k < 3; ++k) d[k] = mean[k] - centre.v[k];
  const float distance = __builtin_sqrtf(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
  for (int k = 0; k < 3; ++k) d[k] /= distance;
  return distance;
}

// What packing left to do: colours that depend on the direction.
inline void shade(View& view, const Parameters& p, int threads) {
  if (p.sh_count == 1) return;
  const CameraCentre centre = camera_centre(view.camera);
  parallel(threads, view.blocks, [&](int64_t block, int) {
    const int64_t begin = block * BLOCK, end = begin + view.base[block + 1] - view.base[block];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = view.row[i];
      const float* sh = p.sh + row * p.sh_count * 3;
      float d[3], values[MAX_SH], rgb[3] = {0.5f, 0.5f, 0.5f};
      direction(p.means + 3 * row, centre, d);
      harmonics(d, p.sh_count, values, nullptr);
      for (int k = 0; k < p.sh_count; ++k)
        for (int c = 0; c < 3; ++c) rgb[c] += values[k] * sh[3 * k + c];
      for (int c = 0; c < 3; ++c) view.splats[i].color[c] = rgb[c] > 0.f && rgb[c] < 3e38f ? rgb[c] : 0.f;
    }
  });
}

}  // namespace GS_ISA
}  // namespace gs
