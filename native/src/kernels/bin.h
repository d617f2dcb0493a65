// Lists of splats per tile: prefix sums over the counts that projection made, then scatter. Each thread lists the splats
// it projected; a tile's list is in no particular order until it is sorted.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

inline void bin(View& view, int threads) {
  const int64_t tiles = static_cast<int64_t>(view.tiles_x) * view.tiles_y;
  const int parts = effective_threads(threads);
  uint32_t* counts = view.tile_counts.data;
  uint32_t* start = view.tile_start.reserve(tiles + 1);
  std::memset(view.sorted.reserve(tiles), 0, tiles * sizeof(uint32_t));
  view.has_first = false;
  if (view.entries > MAX_ENTRIES) return;  // which the caller reports

  uint32_t sum = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    start[tile] = sum;
    for (int p = 0; p < parts; ++p) {
      const uint32_t count = counts[p * tiles + tile];
      counts[p * tiles + tile] = sum;
      sum += count;
    }
  }
  start[tiles] = sum;

  uint64_t* keys = view.keys.reserve(sum);
  parallel(threads, parts, [&](int64_t part, int) {
    uint32_t* next = counts + part * tiles;
    for (int64_t block = 0; block < view.blocks; ++block) {
      if (view.owner[block] != part) continue;
      const int64_t begin = block * BLOCK, end = begin + view.base[block + 1] - view.base[block];
      for (int64_t position = begin; position < end; ++position) {
        const Rect r = view.rects[position];
        uint32_t depth_bits;
        std::memcpy(&depth_bits, &view.depth[position], sizeof depth_bits);
        const uint64_t key = static_cast<uint64_t>(depth_bits) << 32 | static_cast<uint64_t>(position);
        for (int y = r.y0; y <= r.y1; ++y)
          for (int x = r.x0; x <= r.x1; ++x) keys[next[y * view.tiles_x + x]++] = key;
      }
    }
  });
}

}  // namespace GS_ISA
}  // namespace gs
