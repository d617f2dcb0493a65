// Which of many points a camera sees: those in its image whose depth agrees with that of the map in their pixel.
#include <cmath>
#include <vector>

#include "api.h"
#include "thread_pool.h"

namespace {

constexpr int64_t CHUNK = 4096;

}  // namespace

int32_t gs_seen_points(const gs::Camera* camera, const float* points, const uint8_t* among, int64_t count,
                       const float* depth, float tolerance, float share, float near, int64_t* rows, float* places, float* z,
                       int64_t* found, int32_t threads) {
  const gs::Camera& c = *camera;
  if (c.width < 1 || c.height < 1 || count < 0) return GS_BAD_ARGUMENT;
  const float width = static_cast<float>(c.width), height = static_cast<float>(c.height);
  const int64_t chunks = (count + CHUNK - 1) / CHUNK;
  std::vector<int64_t> seen(static_cast<size_t>(chunks));
  gs::parallel(threads, chunks, [&](int64_t chunk, int) {
    const int64_t begin = chunk * CHUNK, end = begin + CHUNK < count ? begin + CHUNK : count;
    int64_t next = begin;  // what a chunk sees is written where the chunk begins, and moved together below
    for (int64_t i = begin; i < end; ++i) {
      if (among && !among[i]) continue;
      const float* p = points + 3 * i;
      const auto along = [&](const float* axis, float shift) { return axis[0] * p[0] + axis[1] * p[1] + axis[2] * p[2] + shift; };
      const float away = along(c.R + 6, c.t[2]);
      if (!(away > near)) continue;
      const float u = c.fx * along(c.R, c.t[0]) / away + c.cx, v = c.fy * along(c.R + 3, c.t[1]) / away + c.cy;
      if (!(u > 0.f && v > 0.f && u < width && v < height)) continue;
      if (depth) {
        const float shown = depth[static_cast<int64_t>(v) * c.width + static_cast<int64_t>(u)];
        const float allowed = share * away > tolerance ? share * away : tolerance;
        if (!(shown > 0.f && std::fabs(away - shown) <= allowed)) continue;
      }
      rows[next] = i;
      places[2 * next] = u - 0.5f, places[2 * next + 1] = v - 0.5f;
      z[next++] = away;
    }
    seen[chunk] = next - begin;
  });
  int64_t total = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int64_t i = chunk * CHUNK; i < chunk * CHUNK + seen[chunk]; ++i, ++total) {
      rows[total] = rows[i];
      places[2 * total] = places[2 * i], places[2 * total + 1] = places[2 * i + 1];
      z[total] = z[i];
    }
  *found = total;
  return 0;
}
