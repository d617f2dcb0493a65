// A depth image into blocks of a truncated signed distance field (Curless and Levoy, 1996): the distance along the
// camera's axis from a voxel to the surface in its pixel, averaged over images.
#pragma once

#include "../thread_pool.h"
#include "../types.h"
#include "../simd.h"

namespace gs {
namespace GS_ISA {

inline void tsdf_fuse(const TsdfFusion& f, int threads) {
  alignas(64) float lane_y[LANES], lane_z[LANES];
  for (int i = 0; i < LANES; ++i) lane_y[i] = static_cast<float>(i / TSDF_SIDE), lane_z[i] = static_cast<float>(i % TSDF_SIDE);
  const Vec row_y = load(lane_y), row_z = load(lane_z);
  parallel(threads, f.count, [&](int64_t block, int) {
    const float* corner = f.corners + 3 * block;
    const int64_t first = f.rows[block] * TSDF_SIDE * TSDF_SIDE * TSDF_SIDE;
    for (int group = 0; group < TSDF_SIDE * TSDF_SIDE * TSDF_SIDE / LANES; ++group) {
      const float x = static_cast<float>(group / (TSDF_SIDE * TSDF_SIDE / LANES));
      const Vec y = row_y + set(static_cast<float>(group % (TSDF_SIDE * TSDF_SIDE / LANES) * (LANES / TSDF_SIDE)));
      Vec p[3];
      for (int k = 0; k < 3; ++k)
        p[k] = fma(row_z, set(f.axes[6 + k]), fma(y, set(f.axes[3 + k]), set(corner[k] + x * f.axes[k])));
      const Vec inverse = set(1.f) / p[2];
      // half a pixel is added here and cut off below
      const Vec u = fma(p[0] * inverse, set(f.fx), set(f.cx + 0.5f)), v = fma(p[1] * inverse, set(f.fy), set(f.cy + 0.5f));
      const Mask before = gt(p[2], set(f.near));
      const Mask across = both(ge(u, set(0.f)), gt(set(static_cast<float>(f.width)), u));
      const Mask down = both(ge(v, set(0.f)), gt(set(static_cast<float>(f.height)), v));
      uint32_t seen = bits(both(before, both(across, down)));
      if (!seen) continue;
      alignas(64) float column[LANES], line[LANES], z[LANES];
      store(column, u), store(line, v), store(z, p[2]);
      for (; seen; seen &= seen - 1) {
        const int i = __builtin_ctz(seen);
        const float depth = f.depth[static_cast<int64_t>(line[i]) * f.width + static_cast<int64_t>(column[i])];
        const float ahead = depth - z[i];
        if (!(depth > 0.f) || ahead < -f.truncation) continue;
        float& distance = f.distance[first + group * LANES + i];
        uint8_t& weight = f.weight[first + group * LANES + i];
        distance += ((ahead < f.truncation ? ahead : f.truncation) - distance) / (weight + 1.f);
        if (weight < f.most_weight) ++weight;
      }
    }
  });
}

}  // namespace GS_ISA
}  // namespace gs
