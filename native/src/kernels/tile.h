// The walk that every image pass shares: the splats of one tile, front to back, over 4x4-pixel blocks of 16 lanes.
//
// A pixel with transmittance T draws a splat of opacity alpha >= alpha_min with weight w = alpha T and goes on with
// T (1 - alpha); it is finished, without drawing, where T (1 - alpha) <= transmittance_min.
#pragma once

#include "../simd.h"
#include "../types.h"
#include "sort.h"

namespace gs {
namespace GS_ISA {

constexpr int BLOCK_SIDE = 4;
constexpr int PASS = 16;  // feature channels that one pass carries

template <auto x>
struct Constant {
  static constexpr auto value = x;
};

GS_INLINE Vec lane_x() {
  alignas(64) static const float v[LANES] = {0.5f, 1.5f, 2.5f, 3.5f, 0.5f, 1.5f, 2.5f, 3.5f,
                                             0.5f, 1.5f, 2.5f, 3.5f, 0.5f, 1.5f, 2.5f, 3.5f};
  return load(v);
}
GS_INLINE Vec lane_y() {
  alignas(64) static const float v[LANES] = {0.5f, 0.5f, 0.5f, 0.5f, 1.5f, 1.5f, 1.5f, 1.5f,
                                             2.5f, 2.5f, 2.5f, 2.5f, 3.5f, 3.5f, 3.5f, 3.5f};
  return load(v);
}

// Sorted splats of one tile, copied field by field as far as the walk needs them.
class TileList {
 public:
  enum Field { PX, PY, A, B, C, LOG2_O, THRESHOLD, DEPTH, DY_OF_DX, DX_OF_DY, RED, GREEN, BLUE, FIELDS };

  int64_t length = 0, filled = 0;
  int tile_x = 0, tile_y = 0;  // of the first pixel
  int32_t* candidates = nullptr;
  uint32_t *row = nullptr, *position = nullptr;

  // The feature channels of one pass, one row of PASS floats per splat, near each other in memory.
  float* features = nullptr;

  TileList(View& view, int64_t tile, Scratch& scratch, bool colors)
      : view_(view), scratch_(scratch), colors_(colors) {
    sort_tile(view, tile, scratch);
    const int64_t begin = view.tile_start[tile];
    length = view.tile_start[tile + 1] - begin;
    order_ = view.order.data + begin;
    tile_x = static_cast<int>(tile % view.tiles_x) * view.tile_size;
    tile_y = static_cast<int>(tile / view.tiles_x) * view.tile_size;
    stride_ = (length + 2 * LANES - 1) / LANES * LANES;
    fields_ = scratch.fields.reserve(stride_ * FIELDS);
    row = scratch.row.reserve(stride_);
    position = scratch.position.reserve(stride_);
    candidates = scratch.candidates.reserve(stride_ + LANES);
  }

  // Before filling: copy `channels` values of each splat's row, too.
  void carry_features(const float* source, int channels, int64_t stride) {
    source_ = source;
    channels_ = channels;
    source_stride_ = stride;
    features = scratch_.features.reserve(stride_ * PASS);
    for (int64_t i = 0; i < filled; ++i) copy_features(i);
  }

  GS_INLINE float* field(int k) const { return fields_ + k * stride_; }
  GS_INLINE float at(int k, int64_t i) const { return fields_[k * stride_ + i]; }

  void fill(int64_t upto) {
    upto = upto < length ? upto : length;
    int64_t i = filled;
    for (; i < upto; ++i) {
      const uint32_t p = order_[i];
      if (i + 12 < length) {
        __builtin_prefetch(view_.splats.data + order_[i + 12]);
        __builtin_prefetch(view_.row.data + order_[i + 12]);
        if (channels_) __builtin_prefetch(source_ + view_.row[order_[i + 6]] * source_stride_);
      }
      const Splat& s = view_.splats[p];
      field(PX)[i] = s.x;
      field(PY)[i] = s.y;
      field(A)[i] = s.a;
      field(B)[i] = s.b;
      field(C)[i] = s.c;
      field(LOG2_O)[i] = s.log2_opacity;
      field(THRESHOLD)[i] = s.threshold;
      field(DEPTH)[i] = s.z;
      row[i] = view_.row[p];
      position[i] = p;
      if (channels_) copy_features(i);
      if (colors_) {
        const Color& c = view_.colors[p];
        field(RED)[i] = c.r;
        field(GREEN)[i] = c.g;
        field(BLUE)[i] = c.b;
      }
    }
    const int64_t end = (upto + LANES - 1) / LANES * LANES;
    for (; i < end; ++i) {  // padding that no pixel draws
      field(PX)[i] = field(PY)[i] = field(B)[i] = field(DEPTH)[i] = 0.f;
      field(A)[i] = field(C)[i] = -1.f;
      field(LOG2_O)[i] = -200.f;
      field(THRESHOLD)[i] = 0.f;
    }
    for (int64_t j = filled / LANES * LANES; j < end; j += LANES) {
      const Vec half_b = set(-0.5f) * load(field(B) + j);
      store(field(DY_OF_DX) + j, half_b / load(field(C) + j));
      store(field(DX_OF_DY) + j, half_b / load(field(A) + j));
    }
    filled = upto;
  }

  // Bit i: splat k + i reaches its threshold somewhere in the rectangle of pixel centres [x0, x1] x [y0, y1].
  // The exponent is concave, so its maximum lies on the edge that faces the centre in x or in y.
  GS_INLINE uint32_t touches(int64_t k, Vec x0, Vec x1, Vec y0, Vec y1) const {
    const Vec x = load(field(PX) + k), y = load(field(PY) + k), a = load(field(A) + k), b = load(field(B) + k),
              c = load(field(C) + k);
    const Vec left = x0 - x, right = x1 - x, top = y0 - y, bottom = y1 - y;
    const Vec dx = clamp(zero(), left, right), dy = clamp(load(field(DY_OF_DX) + k) * dx, top, bottom);
    const Vec ey = clamp(zero(), top, bottom), ex = clamp(load(field(DX_OF_DY) + k) * ey, left, right);
    const Vec p = fma(dx, fma(a, dx, b * dy), c * dy * dy), q = fma(ex, fma(a, ex, b * ey), c * ey * ey);
    return bits(ge(vmax(p, q) + load(field(LOG2_O) + k) + set(1e-4f), load(field(THRESHOLD) + k)));
  }

 private:
  GS_INLINE void copy_features(int64_t i) {
    const float* from = source_ + static_cast<int64_t>(row[i]) * source_stride_;
    store(features + i * PASS, channels_ == PASS ? load(from) : load_first(from, channels_));
  }

  View& view_;
  Scratch& scratch_;
  bool colors_;
  const float* source_ = nullptr;
  int channels_ = 0;
  int64_t source_stride_ = 0;
  const uint32_t* order_;
  float* fields_;
  int64_t stride_;
};

struct PixelBlock {
  int x, y, width, height;  // of the part inside the image
  uint32_t inside;          // lanes inside the image
};

// Calls visit(PixelBlock) for the blocks of a tile.
template <class Visit>
GS_INLINE void for_each_block(const View& view, const TileList& list, Visit&& visit) {
  const int stop_x = imin(list.tile_x + view.tile_size, view.camera.width);
  const int stop_y = imin(list.tile_y + view.tile_size, view.camera.height);
  for (int y = list.tile_y; y < stop_y; y += BLOCK_SIDE)
    for (int x = list.tile_x; x < stop_x; x += BLOCK_SIDE) {
      const int w = imin(BLOCK_SIDE, view.camera.width - x), h = imin(BLOCK_SIDE, view.camera.height - y);
      const uint32_t line = (1u << w) - 1;
      uint32_t inside = 0;
      for (int r = 0; r < h; ++r) inside |= line << (4 * r);
      visit(PixelBlock{x, y, w, h, inside});
    }
}

// Walks one block. draw(k, weight, alpha, T, drawn) sees every splat that may touch it, in order; done(alive, T) ends
// the walk early. Returns the final transmittance.
template <class Draw, class Done>
GS_INLINE Vec walk(const View& view, TileList& list, const PixelBlock& block, Draw&& draw, Done&& done) {
  const Vec px = set(static_cast<float>(block.x)) + lane_x(), py = set(static_cast<float>(block.y)) + lane_y();
  const Vec x0 = set(block.x + 0.5f), x1 = set(block.x + block.width - 0.5f);
  const Vec y0 = set(block.y + 0.5f), y1 = set(block.y + block.height - 0.5f);
  const Vec alpha_max = set(view.settings.alpha_max), t_min = set(view.settings.transmittance_min);
  Mask alive = from_bits(block.inside);
  Vec T = set(1.f);
  for (int64_t start = 0; start < list.length;) {
    const int64_t stop = start + 64 < list.length ? start + 64 : list.length;
    if (list.filled < stop) list.fill(stop);
    int n = 0;
    for (; start < stop; start += LANES)
      n += compress_indices(list.candidates + n, static_cast<int32_t>(start), list.touches(start, x0, x1, y0, y1));
    for (int i = 0; i < n; ++i) {
      const int k = list.candidates[i];
      const Vec dx = px - set(list.at(TileList::PX, k)), dy = py - set(list.at(TileList::PY, k));
      const Vec linear = fma(set(list.at(TileList::A, k)), dx, set(list.at(TileList::B, k)) * dy);
      const Vec power = fma(dx, linear, fma(dy * dy, set(list.at(TileList::C, k)), set(list.at(TileList::LOG2_O, k))));
      const Vec alpha = keep(ge(power, set(list.at(TileList::THRESHOLD, k))), vmin(exp2_fast(power), alpha_max));
      const Vec next = fnma(alpha, T, T);
      alive = both(alive, gt(next, t_min));
      const Vec weight = keep(alive, alpha * T);
      draw(k, weight, alpha, T, alive);
      T = select(alive, next, T);
      if ((i & 1) && done(alive, T)) return T;
    }
    if (done(alive, T)) return T;
  }
  return T;
}

// One value per pixel of a block into an image of the given row length.
GS_INLINE void put(Vec v, const PixelBlock& block, float* image, int64_t image_width) {
  alignas(64) float t[LANES];
  store(t, v);
  float* out = image + block.y * image_width + block.x;
  if (block.inside == 0xffffu) {
    for (int r = 0; r < 4; ++r) std::memcpy(out + r * image_width, t + 4 * r, 4 * sizeof(float));
    return;
  }
  for (int r = 0; r < block.height; ++r)
    for (int c = 0; c < block.width; ++c) out[r * image_width + c] = t[4 * r + c];
}

GS_INLINE Vec get(const float* image, const PixelBlock& block, int64_t image_width) {
  alignas(64) float t[LANES] = {};
  const float* in = image + block.y * image_width + block.x;
  for (int r = 0; r < block.height; ++r)
    for (int c = 0; c < block.width; ++c) t[4 * r + c] = in[r * image_width + c];
  return load(t);
}

template <class Visit>  // visit(thread's scratch, tile)
GS_INLINE void for_each_tile(View& view, int threads, Visit&& visit) {
  const int64_t tiles = static_cast<int64_t>(view.tiles_x) * view.tiles_y;
  parallel(threads, tiles, [&](int64_t tile, int thread) { visit(view.scratch[thread], tile); });
}

}  // namespace GS_ISA
}  // namespace gs
