// Lists of splats per tile: count, prefix sum, scatter. Each thread takes a contiguous range of splats, so a tile's
// list is in row order whatever the number of threads.
#pragma once

#include "../simd.h"
#include "../thread_pool.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

inline void bin(View& view, int threads) {
  const int64_t tiles = static_cast<int64_t>(view.tiles_x) * view.tiles_y;
  const int parts = effective_threads(threads);
  uint32_t* counts = view.tile_counts.reserve(static_cast<size_t>(parts) * tiles);
  uint32_t* start = view.tile_start.reserve(tiles + 1);
  uint32_t* first = view.first.reserve(view.blocks * BLOCK);
  view.sorted.reserve(tiles);
  std::memset(view.sorted.data, 0, tiles);

  // Blocks [limits[p], limits[p + 1]) hold about the same number of splats for every p.
  int64_t limits[257], entries[257];
  int64_t block = 0;
  for (int p = 0; p < parts; ++p) {
    limits[p] = block;
    const int64_t wanted = view.visible * (p + 1) / parts;
    while (block < view.blocks && (p + 1 == parts || view.base[block + 1] <= wanted)) ++block;
  }
  limits[parts] = view.blocks;

  auto for_each_splat = [&](int64_t part, auto&& visit) {
    for (int64_t b = limits[part]; b < limits[part + 1]; ++b) {
      const int64_t count = view.base[b + 1] - view.base[b];
      for (int64_t position = b * BLOCK; position < b * BLOCK + count; ++position)
        visit(position, view.rects[position]);
    }
  };

  parallel(threads, parts, [&](int64_t part, int) {
    uint32_t* count = counts + part * tiles;
    std::memset(count, 0, tiles * sizeof *count);
    int64_t area = 0;
    for_each_splat(part, [&](int64_t, Rect r) {
      for (int y = r.y0; y <= r.y1; ++y)
        for (int x = r.x0; x <= r.x1; ++x) ++count[y * view.tiles_x + x];
      area += (r.x1 - r.x0 + 1) * (r.y1 - r.y0 + 1);
    });
    entries[part] = area;
  });

  int64_t total = 0;
  for (int p = 0; p < parts; ++p) {
    const int64_t area = entries[p];
    entries[p] = total;
    total += area;
  }
  view.entries = total;
  if (total > MAX_ENTRIES) return;  // which the caller reports

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

  uint64_t* keys = view.keys.reserve(total);
  view.order.reserve(total);
  parallel(threads, parts, [&](int64_t part, int) {
    uint32_t* next = counts + part * tiles;
    uint32_t entry = static_cast<uint32_t>(entries[part]);
    for_each_splat(part, [&](int64_t position, Rect r) {
      uint32_t depth_bits;
      std::memcpy(&depth_bits, &view.splats[position].z, sizeof depth_bits);
      const uint64_t key = static_cast<uint64_t>(depth_bits) << 32 | static_cast<uint64_t>(position);
      first[position] = entry;
      entry += (r.x1 - r.x0 + 1) * (r.y1 - r.y0 + 1);
      for (int y = r.y0; y <= r.y1; ++y)
        for (int x = r.x0; x <= r.x1; ++x) keys[next[y * view.tiles_x + x]++] = key;
    });
  });
}

}  // namespace GS_ISA
}  // namespace gs
