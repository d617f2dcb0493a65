// Transpose passes: from an image back to the Gaussians, with the same weights w_i(p) as rendering.
//     weighted_sum_i = sum_p w_i(p) F(p),  weight_sum_i = sum_p w_i(p),  pixel_count_i = #{p : w_i(p) > 0}
//
// Every tile sums over its own pixels and stores one partial per entry (a splat in a tile); afterwards the partials of
// a splat, which lie side by side, are added in the order of the tiles. So the result does not depend on scheduling.
#pragma once

#include "tile.h"

namespace gs {
namespace GS_ISA {

// Where the partial of the splat at `position` over a tile it touches, in column x and row y of the tiles, is kept.
GS_INLINE int64_t entry_of(const View& view, uint32_t position, int x, int y) {
  const Rect r = view.rects[position];
  return static_cast<int64_t>(view.first[position]) + (y - r.y0) * (r.x1 - r.x0 + 1) + (x - r.x0);
}

GS_INLINE int64_t entry_count(const View& view, int64_t position) {
  const Rect r = view.rects[position];
  return static_cast<int64_t>(r.x1 - r.x0 + 1) * (r.y1 - r.y0 + 1);
}

GS_INLINE int64_t entry_of(const View& view, uint32_t position, int64_t tile) {
  return entry_of(view, position, static_cast<int>(tile % view.tiles_x), static_cast<int>(tile / view.tiles_x));
}

// Prepares for partials of `width` floats.
inline void begin_partials(View& view, int64_t width) {
  if (!view.has_first) {
    uint32_t* first = view.first.reserve(view.blocks * BLOCK);
    uint32_t entry = 0;
    for (int64_t block = 0; block < view.blocks; ++block)
      for (int64_t i = block * BLOCK, end = i + view.base[block + 1] - view.base[block]; i < end; ++i) {
        first[i] = entry;
        entry += static_cast<uint32_t>(entry_count(view, i));
      }
    view.has_first = true;
  }
  view.partials.reserve(view.entries * width);
  view.touched.reserve(view.entries);
  std::memset(view.touched.data, 0, view.entries);
}

template <class Visit>  // visit(position, visible index, row)
GS_INLINE void for_each_visible(const View& view, int threads, Visit&& visit) {
  parallel(threads, view.blocks, [&](int64_t block, int) {
    const int64_t count = view.base[block + 1] - view.base[block];
    for (int64_t k = 0; k < count; ++k)
      visit(block * BLOCK + k, view.base[block] + k, static_cast<int64_t>(view.row[block * BLOCK + k]));
  });
}

// Adds the partials of one splat; `total` has `width` (a multiple of 16) floats.
template <int width>
GS_INLINE bool sum_partials(const View& view, int64_t position, Vec* total) {
  for (int k = 0; k < width / LANES; ++k) total[k] = zero();
  bool seen = false;
  const int64_t begin = view.first[position], end = begin + entry_count(view, position);
  for (int64_t e = begin; e < end; ++e) {
    if (!view.touched[e]) continue;
    seen = true;
    for (int k = 0; k < width / LANES; ++k) total[k] = total[k] + load(view.partials.data + e * width + k * LANES);
  }
  return seen;
}

// The values of a block's pixels, `count` of `stride` channels, as one row of 16 per pixel; the rest is 0.
GS_INLINE void load_pixels(const float* image, int64_t stride, int count, int64_t image_width, const PixelBlock& block,
                           float (*rows)[LANES]) {
  std::memset(rows, 0, sizeof(float) * LANES * LANES);
  for (int r = 0; r < block.height; ++r)
    for (int c = 0; c < block.width; ++c)
      std::memcpy(rows[4 * r + c], image + ((block.y + r) * image_width + block.x + c) * stride, count * sizeof(float));
}

// Asks for the values of the block to the right.
GS_INLINE void prefetch_next_pixels(const float* image, int64_t stride, int64_t image_width, const PixelBlock& block) {
  if (block.x + 2 * BLOCK_SIDE > image_width) return;
  for (int r = 0; r < block.height; ++r)
    for (int c = BLOCK_SIDE; c < 2 * BLOCK_SIDE; ++c)
      __builtin_prefetch(image + ((block.y + r) * image_width + block.x + c) * stride);
}

// sums += sum_p w[p * step] * rows[p], 16 channels at once.
template <int step = 1>
GS_INLINE void add_outer(const float* w, const float (*rows)[LANES], float* sums) {
  Vec even = load(sums), odd = zero();
  GS_UNROLL for (int p = 0; p < LANES; p += 2) {
    even = fma(set(w[p * step]), load(rows[p]), even);
    odd = fma(set(w[(p + 1) * step]), load(rows[p + 1]), odd);
  }
  store(sums, even + odd);
}

// One pass: `count` channels of the image from `image` on, `stride` apart; the first pass also sums the weights.
template <bool first>
void accumulate_pass(View& view, const float* image, int count, int64_t stride, float* weighted_sum, float* weight_sum,
                     int32_t* pixel_count, int threads) {
  constexpr int WIDTH = first ? LANES + 4 : LANES, WEIGHT = LANES, COUNT = LANES + 1;  // floats of a partial
  begin_partials(view, WIDTH);
  for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
    TileList list(view, tile, scratch);
    float* sums = scratch.sums.reserve(list.length * LANES);
    std::memset(sums, 0, list.length * LANES * sizeof(float));
    float* weight_of = scratch.features.reserve(first ? list.length * LANES : 0);
    if (first) std::memset(weight_of, 0, list.length * LANES * sizeof(float));
    int32_t* pixels = scratch.counts.reserve(list.length + 1);
    std::memset(pixels, 0, (list.length + 1) * sizeof *pixels);
    for_each_block(view, list, [&](const PixelBlock& block) {
      alignas(64) float rows[LANES][LANES], weights[BATCH][LANES];
      int32_t weighted[BATCH];
      int noted = 0;
      load_pixels(image, stride, count, view.camera.width, block, rows);
      prefetch_next_pixels(image, stride, view.camera.width, block);
      walk(
          view, list, block,
          [&](int k, Vec w, Vec, Vec, Mask) __attribute__((always_inline)) {
            const uint32_t drawn = bits(gt(w, zero()));
            store(weights[noted], w);
            weighted[noted] = k;
            noted += drawn != 0;
            pixels[k] += __builtin_popcount(drawn);
          },
          [](Mask alive, Vec) __attribute__((always_inline)) { return !any(alive); },
          [&]() __attribute__((always_inline)) {
            Vec pixel[LANES];
            GS_UNROLL for (int p = 0; p < LANES; ++p) pixel[p] = load(rows[p]);
            for (int i = 0; i < noted; ++i) {
              const int64_t k = weighted[i];
              if (first) store(weight_of + k * LANES, load(weight_of + k * LANES) + load(weights[i]));
              Vec even = load(sums + k * LANES), odd = zero();
              GS_UNROLL for (int p = 0; p < LANES; p += 2) {
                even = fma(pixel[p], set(weights[i][p]), even);
                odd = fma(pixel[p + 1], set(weights[i][p + 1]), odd);
              }
              store(sums + k * LANES, even + odd);
            }
            noted = 0;
          });
    });
    for (int64_t k = 0; k < list.filled; ++k) {
      if (pixels[k] == 0) continue;
      const int64_t e = entry_of(view, list.position[k], tile);
      float* partial = view.partials.data + e * WIDTH;
      store(partial, load(sums + k * LANES));
      if (first) {
        partial[WEIGHT] = sum(load(weight_of + k * LANES));
        partial[COUNT] = static_cast<float>(pixels[k]);
      }
      view.touched[e] = 1;
    }
  });
  for_each_visible(view, threads, [&](int64_t position, int64_t, int64_t row) {
    Vec total = zero();
    float weight = 0.f, drawn = 0.f;
    const int64_t begin = view.first[position], end = begin + entry_count(view, position);
    bool seen = false;
    for (int64_t e = begin; e < end; ++e) {
      if (!view.touched[e]) continue;
      seen = true;
      const float* partial = view.partials.data + e * WIDTH;
      total = total + load(partial);
      if (first) weight += partial[WEIGHT], drawn += partial[COUNT];
    }
    if (!seen) return;
    store_first(weighted_sum + row * stride, total, count);
    if (first) {
      weight_sum[row] = weight;
      pixel_count[row] = static_cast<int32_t>(drawn);
    }
  });
}

inline void accumulate(View& view, const float* image, int channels, float* weighted_sum, float* weight_sum,
                       int32_t* pixel_count, int threads) {
  accumulate_pass<true>(view, image, imin(channels, LANES), channels, weighted_sum, weight_sum, pixel_count, threads);
  for (int done = LANES; done < channels; done += LANES)
    accumulate_pass<false>(view, image + done, imin(channels - done, LANES), channels, weighted_sum + done, nullptr,
                           nullptr, threads);
}

// Two labels and their weights, the heavier one first.
struct LabelVote {
  int32_t label[2];
  float weight[2];
  float total;
  float spare[3];

  GS_INLINE void add(int32_t l, float w) {
    if (weight[0] > 0.f && label[0] == l) {
      weight[0] += w;
    } else if (weight[1] > 0.f && label[1] == l) {
      weight[1] += w;
    } else if (w > weight[1]) {
      label[1] = l;
      weight[1] = w;
    }
    if (weight[1] > weight[0]) {
      const int32_t l0 = label[0];
      const float w0 = weight[0];
      label[0] = label[1];
      weight[0] = weight[1];
      label[1] = l0;
      weight[1] = w0;
    }
  }
};
static_assert(sizeof(LabelVote) == 32, "a label vote is eight words");

// The different labels of some pixels in the order of their first appearance, as far as there is room.
template <int room>
struct Distinct {
  int32_t label[room];
  int count = 0;

  // The label's place; -1 where there is no room for it.
  GS_INLINE int place(int32_t l) {
    int i = 0;
    while (i < count && label[i] != l) ++i;
    if (i < count) return i;
    if (count == room) return -1;
    label[count++] = l;
    return i;
  }
};

// The labels of one block and their lanes; most blocks have one.
struct BlockLabels {
  Distinct<LANES> distinct;
  uint32_t lanes[LANES];

  GS_INLINE BlockLabels(const int32_t* labels, int64_t image_width, const PixelBlock& block) {
    for (int r = 0; r < block.height; ++r)
      for (int c = 0; c < block.width; ++c) {
        const int before = distinct.count;
        const int i = distinct.place(labels[static_cast<int64_t>(block.y + r) * image_width + block.x + c]);
        if (i == before) lanes[i] = 0;
        lanes[i] |= 1u << (4 * r + c);
      }
  }
};

// Most tiles have few labels: then there is a sum, in four parts, for each splat and label.
constexpr int FEW_LABELS = 4;

inline bool find_few_labels(const View& view, const TileList& list, const int32_t* labels,
                            Distinct<FEW_LABELS>& found) {
  const int stop_x = imin(list.tile_x + view.tile_size, view.camera.width);
  const int stop_y = imin(list.tile_y + view.tile_size, view.camera.height);
  for (int y = list.tile_y; y < stop_y; ++y)
    for (int x = list.tile_x; x < stop_x; ++x)
      if (found.place(labels[static_cast<int64_t>(y) * view.camera.width + x]) < 0) return false;
  return true;
}

inline void vote_for_few_labels(View& view, TileList& list, const int32_t* labels, Distinct<FEW_LABELS>& few,
                                Scratch& scratch, LabelVote* votes) {
  const int width = 4 * few.count;
  float* sums = scratch.features.reserve((list.length + 1) * width);
  std::memset(sums, 0, (list.length + 1) * width * sizeof(float));
  for_each_block(view, list, [&](const PixelBlock& block) {
    const BlockLabels own(labels, view.camera.width, block);
    int place[LANES];
    for (int i = 0; i < own.distinct.count; ++i) place[i] = 4 * few.place(own.distinct.label[i]);
    walk(
        view, list, block,
        [&](int k, Vec w, Vec, Vec, Mask) __attribute__((always_inline)) {
          float* s = sums + static_cast<int64_t>(k) * width;
          if (own.distinct.count == 1) return add_quarters(s + place[0], w);
          for (int i = 0; i < own.distinct.count; ++i) add_quarters(s + place[i], keep(from_bits(own.lanes[i]), w));
        },
        [](Mask alive, Vec) __attribute__((always_inline)) { return !any(alive); });
  });
  for (int64_t k = 0; k < list.filled; ++k)
    for (int i = 0; i < few.count; ++i) {
      const float *s = sums + k * width + 4 * i, weight = (s[0] + s[1]) + (s[2] + s[3]);
      if (!(weight > 0.f)) continue;
      votes[k].total += weight;
      votes[k].add(few.label[i], weight);
    }
}

inline void vote_for_labels(View& view, TileList& list, const int32_t* labels, LabelVote* votes) {
  for_each_block(view, list, [&](const PixelBlock& block) {
    const BlockLabels own(labels, view.camera.width, block);
    walk(
        view, list, block,
        [&](int k, Vec w, Vec, Vec, Mask) __attribute__((always_inline)) {
          if (!any(gt(w, zero()))) return;
          for (int i = 0; i < own.distinct.count; ++i) {
            const float s = sum(own.distinct.count == 1 ? w : keep(from_bits(own.lanes[i]), w));
            if (s > 0.f) {
              votes[k].total += s;
              votes[k].add(own.distinct.label[i], s);
            }
          }
        },
        [](Mask alive, Vec) __attribute__((always_inline)) { return !any(alive); });
  });
}

inline void accumulate_labels(View& view, const int32_t* labels, int32_t* winner, float* winner_weight,
                              float* weight_sum, int threads) {
  constexpr int WORDS = sizeof(LabelVote) / sizeof(float);
  begin_partials(view, WORDS);
  for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
    TileList list(view, tile, scratch);
    LabelVote* votes = reinterpret_cast<LabelVote*>(scratch.sums.reserve(list.length * WORDS));
    std::memset(static_cast<void*>(votes), 0, list.length * sizeof(LabelVote));
    Distinct<FEW_LABELS> few;
    if (find_few_labels(view, list, labels, few))
      vote_for_few_labels(view, list, labels, few, scratch, votes);
    else
      vote_for_labels(view, list, labels, votes);
    for (int64_t k = 0; k < list.filled; ++k) {
      if (!(votes[k].total > 0.f)) continue;
      const int64_t e = entry_of(view, list.position[k], tile);
      std::memcpy(view.partials.data + e * WORDS, &votes[k], sizeof(LabelVote));
      view.touched[e] = 1;
    }
  });
  for_each_visible(view, threads, [&](int64_t position, int64_t, int64_t row) {
    LabelVote all = {};
    const int64_t begin = view.first[position], end = begin + entry_count(view, position);
    for (int64_t e = begin; e < end; ++e) {
      if (!view.touched[e]) continue;
      LabelVote part;
      std::memcpy(&part, view.partials.data + e * WORDS, sizeof part);
      all.total += part.total;
      for (int i = 0; i < 2; ++i)
        if (part.weight[i] > 0.f) all.add(part.label[i], part.weight[i]);
    }
    if (!(all.total > 0.f)) return;
    winner[row] = all.label[0];
    winner_weight[row] = all.weight[0];
    weight_sum[row] = all.total;
  });
}

}  // namespace GS_ISA
}  // namespace gs
