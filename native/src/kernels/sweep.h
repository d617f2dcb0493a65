// Depth of one image from posed images around it: a plane sweep over inverse depth, smoothed semi-globally.
//
// Every pixel has a descriptor, a ternary census: how 16 neighbours compare with it, two bits each. The cost of a
// hypothesis is the sum of the Hamming distances to the two sources that fit best; one that is occluded or does not see
// the point is so left out. Costs are then added up along eight paths through the image, where a change of the
// hypothesis by one from pixel to pixel costs `small_step`, and a larger one `large_step`, less across an edge of the
// image or the border of a region (semi-global matching, Hirschmueller 2008). All sums are of integers, so the result
// does not depend on the number of threads.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

constexpr int BITS = 32;             // of a descriptor
constexpr int UNSEEN = 2 * BITS;     // distance where a source does not see the point
constexpr int UNKNOWN_COST = 24;     // cost where none does
constexpr int GUARD = 255 - 120;     // cost on both sides of the hypotheses

// With a product at its end, as it is written usually, GCC would take it for the instruction that counts in one integer, and
// make no vectors of the loop around.
GS_INLINE int32_t popcount32(uint32_t v) {
  v = v - ((v >> 1) & 0x55555555u);
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0fu;
  v += v >> 8;
  return static_cast<int32_t>((v + (v >> 16)) & 63u);
}

inline void census(const uint8_t* image, int width, int height, int step, int threshold, uint32_t* out, int threads) {
  static const int8_t OFFSET[16][2] = {{-1, -1}, {1, -1}, {-1, 1}, {1, 1}, {0, -2}, {0, 2}, {-2, 0}, {2, 0},
                                       {-2, -2}, {2, -2}, {-2, 2}, {2, 2}, {0, -3}, {0, 3}, {-3, 0}, {3, 0}};
  parallel(threads, height, [&](int64_t y, int) {
    uint32_t* to = out + y * width;
    const uint8_t* centre = image + y * width;
    std::memset(to, 0, width * sizeof *to);
    for (int i = 0; i < 16; ++i) {
      const int dx = OFFSET[i][0] * step;
      int64_t row = y + OFFSET[i][1] * step;
      row = row < 0 ? 0 : row >= height ? height - 1 : row;
      const uint8_t* line = image + row * width;
      const int begin = dx < 0 ? (-dx < width ? -dx : width) : 0, end = dx > 0 ? (width > dx ? width - dx : 0) : width;
      auto bits = [&](int neighbour, int c) {
        return (static_cast<uint32_t>(neighbour > c + threshold) << (2 * i)) |
               (static_cast<uint32_t>(neighbour < c - threshold) << (2 * i + 1));
      };
      for (int x = 0; x < begin; ++x) to[x] |= bits(line[0], centre[x]);
      for (int x = begin; x < end; ++x) to[x] |= bits(line[x + dx], centre[x]);
      for (int x = end > begin ? end : begin; x < width; ++x) to[x] |= bits(line[width - 1], centre[x]);
    }
  });
}

// Costs of all hypotheses of one pixel. Loops are over all of them and do one thing each: so the compiler makes vectors of
// them, whatever it makes of the loads in between.
GS_INLINE void pixel_costs(const Sweep& s, int64_t x, int64_t y, uint8_t* __restrict cost) {
  const uint32_t own = s.reference[(y * s.step) * s.reference_width + x * s.step];
  const int planes = s.planes;
  int32_t first[MAX_PLANES], second[MAX_PLANES];  // the two smallest distances
  for (int d = 0; d < planes; ++d) first[d] = second[d] = UNSEEN;
  for (int i = 0; i < s.source_count; ++i) {
    const SweepSource& source = s.sources[i];
    const float* m = source.M;
    const float ax = m[0] * x + m[1] * y + m[2], ay = m[4] * x + m[5] * y + m[6], az = m[8] * x + m[9] * y + m[10];
    const float bx = m[3], by = m[7], bz = m[11], far = s.inverse_far, gap = s.inverse_step;
    const float wide = static_cast<float>(source.width), high = static_cast<float>(source.height);
    const uint32_t* image = source.descriptors;
    const int32_t stride = source.width;
    int32_t place[MAX_PLANES], blind[MAX_PLANES];  // where the pixel is; UNSEEN if the source does not see the point, else 0
    uint32_t theirs[MAX_PLANES];
    for (int d = 0; d < planes; ++d) {
      const float w = far + static_cast<float>(d) * gap;
      const float z = az + w * bz, scale = 1.f / z;
      const float u = (ax + w * bx) * scale + 0.5f, v = (ay + w * by) * scale + 0.5f;
      const bool seen = (z > 1e-6f) & (u >= 0.f) & (u < wide) & (v >= 0.f) & (v < high);
      const int32_t column = static_cast<int32_t>(seen ? u : 0.f), row = static_cast<int32_t>(seen ? v : 0.f);
      place[d] = row * stride + column;
      blind[d] = seen ? 0 : UNSEEN;
    }
    for (int d = 0; d < planes; ++d) theirs[d] = image[place[d]];
    for (int d = 0; d < planes; ++d) {
      const int32_t distance = popcount32(theirs[d] ^ own);
      const int32_t h = blind[d] > distance ? blind[d] : distance, best = first[d], next = second[d];
      const int32_t larger = h > best ? h : best;
      first[d] = h < best ? h : best;
      second[d] = larger < next ? larger : next;
    }
  }
  for (int d = 0; d < planes; ++d) {
    const int32_t a = first[d], b = second[d], pair = a + (b == UNSEEN ? a : b);
    cost[d] = static_cast<uint8_t>(a == UNSEEN ? UNKNOWN_COST : pair);
  }
}

// One step along a path: to = cost + min(from, from shifted + small, large), from normalised to minimum 0; returns its
// minimum. Arrays have a guard on both sides.
GS_INLINE void path_step(const uint8_t* __restrict cost, const uint8_t* __restrict from, uint8_t* __restrict to,
                         uint16_t* __restrict sums, int planes, int small, int large) {
  uint8_t least = 255;
  const uint8_t low = static_cast<uint8_t>(small), high = static_cast<uint8_t>(large);
  for (int d = 0; d < planes; ++d) {
    const uint8_t before = from[d - 1] < from[d + 1] ? from[d - 1] : from[d + 1];
    const uint8_t shifted = static_cast<uint8_t>(before + low);
    uint8_t best = from[d] < shifted ? from[d] : shifted;
    best = best < high ? best : high;
    const uint8_t value = static_cast<uint8_t>(cost[d] + best);
    to[d] = value;
    sums[d] = static_cast<uint16_t>(sums[d] + value);
    least = value < least ? value : least;
  }
  for (int d = 0; d < planes; ++d) to[d] = static_cast<uint8_t>(to[d] - least);
}

// Four paths in one direction of scanning: along the row, and down (or up) straight and along both diagonals.
inline void scan(const Sweep& s, SweepScratch& scratch, bool down) {
  const int64_t width = s.width, height = s.height, planes = s.planes, cell = planes + 2 * LANES;
  uint16_t* const sums = (down ? scratch.sums_down : scratch.sums_up).data;
  // two lines of three paths each, and the path along the line; each cell with guards
  const int64_t line = (width + 2) * cell;
  uint8_t* const memory = (down ? scratch.paths_down : scratch.paths_up).reserve(6 * line + 2 * cell);
  std::memset(memory, 0, 6 * line + 2 * cell);
  auto guard = [&](uint8_t* p) { std::memset(p, GUARD, LANES), std::memset(p + LANES + planes, GUARD, LANES); };
  for (int64_t i = 0; i < 6 * (width + 2) + 2; ++i) guard(memory + i * cell);
  const int step = down ? 1 : -1;
  auto penalty = [&](int64_t here, int64_t there) {
    const int gap = static_cast<int>(s.intensity[here]) - s.intensity[there];
    const int limited = s.large_step * s.edge / (s.edge + (gap < 0 ? -gap : gap));
    const bool border = s.regions && s.regions[here] != s.regions[there];
    return limited > s.small_step && !border ? limited : s.small_step;
  };
  for (int64_t row = 0; row < height; ++row) {
    const int64_t y = down ? row : height - 1 - row;
    uint8_t* const before = memory + (row & 1) * 3 * line;
    uint8_t* const now = memory + (1 - (row & 1)) * 3 * line;
    for (int64_t column = 0; column < width; ++column) {
      const int64_t x = down ? column : width - 1 - column, at = y * width + x, above = at - step * width;
      const uint8_t* cost = scratch.cost.data + at * planes;
      uint16_t* sum = sums + at * planes;
      std::memset(sum, 0, planes * sizeof *sum);
      uint8_t* along = memory + 6 * line + (column & 1) * cell + LANES;
      uint8_t* along_before = memory + 6 * line + (1 - (column & 1)) * cell + LANES;
      if (column == 0) std::memset(along_before, 0, planes);
      path_step(cost, along_before, along, sum, planes, s.small_step, column ? penalty(at, at - step) : s.large_step);
      for (int64_t path = 0; path < 3; ++path) {
        const int64_t from = x + path - 1;  // cells are numbered from 1; the outer ones stay 0
        const bool inside = row && from >= 0 && from < width;
        const uint8_t* cell_before = before + path * line + (from + 1) * cell + LANES;
        path_step(cost, cell_before, now + path * line + (x + 1) * cell + LANES, sum, planes, s.small_step,
                  inside ? penalty(at, above + path - 1) : s.large_step);
      }
    }
  }
}

// The hypothesis of the smallest sum at each pixel, to a fraction by the parabola through its neighbours.
inline void choose(const Sweep& s, const SweepScratch& scratch, int threads) {
  parallel(threads, s.height, [&](int64_t y, int) {
    for (int64_t at = y * s.width; at < (y + 1) * s.width; ++at) {
      const uint16_t *down = scratch.sums_down.data + at * s.planes, *up = scratch.sums_up.data + at * s.planes;
      uint16_t sums[MAX_PLANES];
      uint16_t least = 65535;
      for (int d = 0; d < s.planes; ++d) {
        sums[d] = static_cast<uint16_t>(down[d] + up[d]);
        least = sums[d] < least ? sums[d] : least;
      }
      int best = 0;
      while (sums[best] != least) ++best;
      int rival = 65535;
      for (int d = 0; d < s.planes; ++d)
        if ((d < best - 2 || d > best + 2) && sums[d] < rival) rival = sums[d];
      float offset = 0.f;
      if (best > 0 && best < s.planes - 1) {
        const float a = sums[best - 1], b = least, c = sums[best + 1];
        const float bend = a - 2.f * b + c;
        if (bend > 0.f) offset = 0.5f * (a - c) / bend;
      }
      s.inverse_depth[at] = s.inverse_far + (best + offset) * s.inverse_step;
      s.margin[at] = (rival - least) * (1.f / 8.f);
      s.cost[at] = scratch.cost.data[at * s.planes + best];
    }
  });
}

inline void sweep(const Sweep& s, SweepScratch& scratch, int threads) {
  const int64_t cells = static_cast<int64_t>(s.width) * s.height * s.planes;
  scratch.cost.reserve(cells);
  scratch.sums_down.reserve(cells);
  scratch.sums_up.reserve(cells);
  parallel(threads, s.height, [&](int64_t y, int) {
    for (int64_t x = 0; x < s.width; ++x) pixel_costs(s, x, y, scratch.cost.data + (y * s.width + x) * s.planes);
  });
  parallel(threads, 2, [&](int64_t direction, int) { scan(s, scratch, direction == 0); });
  choose(s, scratch, threads);
}

}  // namespace GS_ISA
}  // namespace gs
