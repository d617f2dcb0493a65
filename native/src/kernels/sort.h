// Front-to-back order of one tile by depth; equal depths stay in row order.
//
// Depths are positive, so their bit patterns rise with them. A two-pass radix sort on 16 bits, spread over the tile's
// own range of bit patterns (a logarithmic scale, so that one far splat does not spoil the near ones), leaves the list
// almost in order; an insertion sort on the full depth finishes it in about one step per splat. Lists that are too long
// for a 16-bit index, or where the insertion sort meets more disorder than that, take a radix sort on all 32 bits.
#pragma once

#include "../simd.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

// One stable pass over 8 bits from `shift`.
template <class T>
GS_INLINE void radix_pass(const T* from, T* to, uint32_t* histogram, int64_t n, int shift) {
  uint32_t sum = 0;
  for (int k = 0; k < 256; ++k) {
    const uint32_t count = histogram[k];
    histogram[k] = sum;
    sum += count;
  }
  for (int64_t i = 0; i < n; ++i) to[histogram[(from[i] >> shift) & 255]++] = from[i];
}

inline void sort_wide(const uint64_t* keys, int64_t n, uint32_t* order, Scratch& scratch) {
  uint64_t *a = scratch.sort_wide_a.reserve(n), *b = scratch.sort_wide_b.reserve(n);
  std::memcpy(a, keys, n * sizeof *a);
  for (int shift = 32; shift < 64; shift += 8) {
    uint32_t histogram[256] = {};
    for (int64_t i = 0; i < n; ++i) ++histogram[(a[i] >> shift) & 255];
    radix_pass(a, b, histogram, n, shift);
    uint64_t* t = a;
    a = b;
    b = t;
  }
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<uint32_t>(a[i]);
}

// Sorts by the whole key (depth, then position); gives up and returns false after too many moves.
inline bool insertion_sort(uint64_t* sorted, int64_t n) {
  int64_t moves = 4 * n + 64;
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t key = sorted[i];
    int64_t j = i;
    for (; j > 0 && sorted[j - 1] > key; --j) sorted[j] = sorted[j - 1];
    sorted[j] = key;
    if ((moves -= i - j) < 0) return false;
  }
  return true;
}

inline void sort_tile(View& view, int64_t tile, Scratch& scratch) {
  if (view.sorted[tile]) return;
  view.sorted[tile] = 1;
  const int64_t begin = view.tile_start[tile], n = view.tile_start[tile + 1] - begin;
  const uint64_t* keys = view.keys.data + begin;
  uint32_t* order = view.order.data + begin;
  if (n == 0) return;
  if (n > 65536) return sort_wide(keys, n, order, scratch);

  uint32_t low = 0xffffffffu, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t z = static_cast<uint32_t>(keys[i] >> 32);
    low = z < low ? z : low;
    high = z > high ? z : high;
  }
  const float scale = 65535.f / (high > low ? static_cast<float>(high - low) : 1.f);
  uint32_t *a = scratch.sort_a.reserve(n), *b = scratch.sort_b.reserve(n);
  uint32_t histogram[2][256] = {};
  for (int64_t i = 0; i < n; ++i) {
    const float level = static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(keys[i] >> 32) - low)) * scale;
    const uint32_t q = static_cast<uint32_t>(imin(static_cast<int32_t>(level), 65535));
    a[i] = q << 16 | static_cast<uint32_t>(i);
    ++histogram[0][q & 255];
    ++histogram[1][q >> 8];
  }
  radix_pass(a, b, histogram[0], n, 16);
  radix_pass(b, a, histogram[1], n, 24);
  uint64_t* sorted = scratch.sort_wide_a.reserve(n);
  for (int64_t i = 0; i < n; ++i) sorted[i] = keys[a[i] & 65535];
  if (!insertion_sort(sorted, n)) return sort_wide(keys, n, order, scratch);
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<uint32_t>(sorted[i]);
}

}  // namespace GS_ISA
}  // namespace gs
