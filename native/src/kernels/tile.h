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
  constexpr operator decltype(x)() const { return x; }
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

// The splats of one tile, front to back, copied as far as the walk gets: as records for the walk, which looks at one
// splat at a time, and as columns for what looks at 16 splats at once.
//
// As it copies, the list notes which 4x4-pixel blocks each splat reaches. A splat is drawn within the ellipse
// -a dx^2 - b dx dy - c dy^2 <= K = log2_opacity - threshold, whose edges lie at
//     dx = s dy +- sqrt(k - f dy^2),  s = -b / 2a,  k = -K / a,  f = c / a - s^2,
// furthest to the right at dy = s sqrt(k / (f (f + s^2))) and to the left at its negative. Within a row of blocks it
// reaches as far as at the nearest dy of that row, and touches exactly the blocks in between, as an ellipse is convex.
class TileList {
 public:
  enum Column { PX, PY, A, B, C, LOG2_O, THRESHOLD, Z, COLUMNS };  // as in a Splat
  // Of a record. The exponent is log2_opacity - u^2 - v^2, with u = UX dx + UY dy and v = VY dy for a pixel at (dx, dy)
  // from the centre (X, Y) in the tile.
  enum Field { X, Y, UX, UY, VY, LIMIT, PEAK, DEPTH, RED, GREEN, BLUE, ID };
  static constexpr int RECORD = 16;  // floats

  int64_t length = 0, filled = 0;  // the record at `length` is of a splat that no pixel draws
  int64_t evaluations = 0;  // of a splat on a block
  int tile_x = 0, tile_y = 0;  // of the first pixel
  uint32_t *row = nullptr, *position = nullptr;

  // The feature channels of one pass, one row of PASS floats per splat with zeros behind, near each other in memory.
  float* features = nullptr;

  // `ids`, if not null, are those of the map's rows, for the records.
  TileList(View& view, int64_t tile, Scratch& scratch, const int32_t* ids = nullptr)
      : view_(view), scratch_(scratch), order_(view, tile, scratch), ids_(ids) {
    length = order_.length();
    tile_x = static_cast<int>(tile % view.tiles_x) * view.tile_size;
    tile_y = static_cast<int>(tile / view.tiles_x) * view.tile_size;
    blocks_ = view.tile_size / BLOCK_SIDE;
    steps_ = length / STEP + 1;
    stride_ = steps_ * STEP;
    packs_bytes_ = packs_bytes();
    fields_ = scratch.fields.reserve(stride_ * (PY + 1));
    records_ = scratch.records.reserve(stride_ * RECORD);
    masks_ = scratch.masks.reserve(steps_ * blocks_ * blocks_);
    row = scratch.row.reserve(stride_);
    position = scratch.position.reserve(stride_);
    const float nothing[RECORD] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, -200.f};
    std::memcpy(records_ + length * RECORD, nothing, sizeof nothing);
  }

  ~TileList() { scratch_.evaluations += evaluations; }

  // Before filling: copy `channels` values of each splat's row, too.
  void carry_features(const float* source, int channels, int64_t stride) {
    source_ = source;
    channels_ = channels;
    source_stride_ = stride;
    features = scratch_.features.reserve(stride_ * PASS);
    for (int64_t i = 0; i < filled; ++i) copy_features(i);
  }

  GS_INLINE float* field(int k) const { return fields_ + k * stride_; }
  GS_INLINE const float* record(int64_t i) const { return records_ + i * RECORD; }
  GS_INLINE float at(Field k, int64_t i) const { return records_[i * RECORD + k]; }

  // The next splats of the list, STEP at a time, until `upto` at least.
  void fill(int64_t upto) {
    upto = (upto + STEP - 1) / STEP * STEP;
    if (upto > stride_) upto = stride_;
    for (int64_t i = filled; i < upto; i += STEP) {
      if (i == 0) order_.sort_until(2 * STEP < length ? 2 * STEP : length), ask_for_splats(0, AHEAD);
      order_.sort_until(i + 3 * STEP < length ? i + 3 * STEP : length);
      if (blocks_ == 8)
        fill_step(i, Constant<8>{});
      else if (blocks_ == 4)
        fill_step(i, Constant<4>{});
      else
        fill_step(i, blocks_);
    }
    filled = upto < length ? upto : length;
  }

  // Per STEP of splats, one bit for each: does it reach block (x, y) of the tile?
  GS_INLINE uint64_t* touching(int x, int y) const { return masks_ + (y * blocks_ + x) * steps_; }

  // Appends the splats from `begin` on that reach block (x, y) of the tile; returns how many of STEP. Writes up to STEP.
  GS_INLINE int candidates_of(int x, int y, int64_t begin, int32_t* out) const {
    return compress_indices64(out, static_cast<int32_t>(begin), touching(x, y)[static_cast<uint64_t>(begin) / STEP],
                              packs_bytes_);
  }

  static constexpr int STEP = 64;

 private:
  // What is asked for so far ahead has come when it is copied. Never many at once: the processor drops what it cannot
  // keep track of.
  static constexpr int64_t AHEAD = 2 * STEP, ROWS_AHEAD = STEP;

  GS_INLINE void ask_for_splats(int64_t begin, int64_t count) const {
    const int64_t end = begin + count < length ? begin + count : length;
    for (int64_t k = begin; k < end; ++k) __builtin_prefetch(view_.splats.data + order_.position(k));
  }

  // Of the map's row that a splat came from.
  GS_INLINE void ask_for_values(int64_t k) const {
    if (k >= length || !(ids_ || channels_)) return;
    const int64_t from = view_.splats[order_.position(k)].row;
    if (ids_) __builtin_prefetch(ids_ + from);
    if (channels_) __builtin_prefetch(source_ + from * source_stride_);
  }

  template <class Count>
  GS_INLINE void fill_step(int64_t i, Count blocks) {
    alignas(64) uint8_t touched[MAX_TILE / BLOCK_SIDE][STEP];  // by row of blocks and splat: a bit for each column
    for (int k = 0; k < STEP; k += LANES) fill_lanes(i + k, blocks, &touched[0][k]);
    uint64_t* mask = touching(0, 0) + i / STEP;
    for (int r = 0; r < blocks; ++r) bit_columns(touched[r], blocks, mask + r * blocks * steps_, steps_);
  }

  GS_INLINE void fill_lanes(int64_t i, int blocks, uint8_t* touched) {
    static const Splat nothing = {0.f, 0.f, -1.f, 0.f, -1.f, -200.f, 0.f, 0.f, {}, 0, {}};  // that no pixel draws
    const float* from[LANES];
    for (int k = 0; k < LANES; ++k) {
      float* out = records_ + (i + k) * RECORD;
      ask_for_splats(i + k + AHEAD, 1);
      ask_for_values(i + k + ROWS_AHEAD);
      if (i + k >= length) {
        from[k] = &nothing.x;
        position[i + k] = row[i + k] = 0;
        continue;
      }
      const uint32_t p = position[i + k] = order_.position(i + k);
      const Splat& splat = view_.splats[p];
      row[i + k] = splat.row;
      from[k] = &splat.x;
      std::memcpy(out + RED, splat.color, 4 * sizeof(float));
      if (ids_) std::memcpy(out + ID, ids_ + row[i + k], sizeof(int32_t));
      if (channels_) copy_features(i + k);
    }
    Vec column[COLUMNS];
    load_columns(from, 0, column);
    load_columns(from, 4, column + 4);
    for (int k = PX; k <= PY; ++k) store(fields_ + k * stride_ + i, column[k]);
    const Vec ux = vsqrt(-column[A]), uy = set(-0.5f) * column[B] / ux;
    const Vec vy = vsqrt(vmax(-column[C] - uy * uy, zero()));
    const Vec x = column[PX] - set(static_cast<float>(tile_x)), y = column[PY] - set(static_cast<float>(tile_y));
    const Vec record[8] = {x, y, ux, uy, vy, column[THRESHOLD], column[LOG2_O], column[Z]};
    store_columns(record, records_ + i * RECORD, RECORD);
    store_columns(record + 4, records_ + i * RECORD + 4, RECORD);
    note_blocks(column, x, y, blocks, touched);
  }

  GS_INLINE void note_blocks(const Vec* column, Vec x, Vec y, int blocks, uint8_t* touched) const {
    // Rounding must not lose a block: the ellipse is taken a little too large and its centre a little uncertain.
    const Vec K = column[LOG2_O] - column[THRESHOLD] + set(1e-4f);
    const Vec slack = fma(vabs(column[PX]) + vabs(column[PY]), set(2e-7f), set(1e-3f));
    const Vec inverse = set(1.f) / column[A];
    const Vec slope = set(-0.5f) * column[B] * inverse, slope2 = slope * slope, ratio = column[C] * inverse;
    const Vec fall = vmax(ratio - slope2 - set(4e-7f) * (ratio + slope2), zero());
    const Vec k = set(-1.0003f) * K * inverse;
    const Vec furthest = slope * vsqrt(k / (fall * (fall + slope2)));
    // In units of blocks from here on, but dy. Bits up to the last column and those before the first one are powers of 2.
    constexpr float unit = 1.f / BLOCK_SIDE;
    const Vec margin = fma(vabs(slope), slack, slack), slope_ = set(unit) * slope;
    const Vec k_ = set(unit * unit) * k, fall_ = set(unit * unit) * fall;
    const Vec right_of = fma(set(unit), x + margin, set(1.f - 0.5f * unit));
    const Vec left_of = fma(set(unit), x - margin, set(0.5f * unit));
    const Vec most = set(static_cast<float>(blocks));
    for (int r = 0; r < blocks; ++r) {
      const Vec top = set(BLOCK_SIDE * r + 0.5f) - y - slack, bottom = set(BLOCK_SIDE * (r + 1) - 0.5f) - y + slack;
      const Vec dy1 = clamp(furthest, top, bottom), dy0 = clamp(-furthest, top, bottom);
      const Vec in1 = fnma(fall_ * dy1, dy1, k_), in0 = fnma(fall_ * dy0, dy0, k_);  // negative if it misses the row
      const Vec right = fma(in1, inverse_sqrt(in1), fma(slope_, dy1, right_of));
      const Vec left = fnma(in0, inverse_sqrt(in0), fma(slope_, dy0, left_of));
      const Vec end = power_of_2(vmin(vmax(right, zero()), most)), begin = power_of_2(vmin(vmax(left, zero()), most));
      store_bytes(touched + r * STEP, vmax(end - begin, zero()));
    }
  }

  GS_INLINE void copy_features(int64_t i) {
    const float* from = source_ + static_cast<int64_t>(row[i]) * source_stride_;
    store(features + i * PASS, channels_ == PASS ? load(from) : load_first(from, channels_));
  }

  View& view_;
  Scratch& scratch_;
  TileOrder order_;
  const int32_t* ids_;
  const float* source_ = nullptr;
  int channels_ = 0;
  int64_t source_stride_ = 0;
  float *fields_, *records_;
  uint64_t* masks_;
  bool packs_bytes_;
  int blocks_;  // in a row or column of the tile
  int64_t steps_, stride_;  // there is room for
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

constexpr int BATCH = 96 + TileList::STEP;  // the most splats that the walk visits between two flushes

// Splats whose opacities are computed together: the steps of one wait for each other, and those of the next are too far
// away for the processor to begin. As many as registers hold.
constexpr int GROUP = sizeof(Vec) == 64 && sizeof(Mask) <= 2 ? 4 : 1;

// Walks one block. draw(k, weight, alpha, T, drawn) sees every splat that may touch it, in order, and sometimes, with
// weight 0, k = list.length; done(alive, T) ends the walk early; flush() is called after every BATCH splats at most, and
// at the end. Returns the final transmittance.
//
// The transmittance that the walk carries along goes on falling in finished pixels: it never rises, so it is above
// transmittance_min exactly where the pixel was never finished, and no step has to wait for the last one's comparison.
template <class Draw, class Done, class Flush>
GS_INLINE Vec walk(const View& view, TileList& list, const PixelBlock& block, Draw&& draw, Done&& done, Flush&& flush) {
  // Long batches, as each ends in a mispredicted branch; but few splats are copied that no block may need.
  constexpr int MANY = BATCH - TileList::STEP, ENOUGH = 24;
  constexpr int CHECK = 4;  // the same for all instruction sets, as an early end of a vote shows in its confidence
  static_assert(CHECK % GROUP == 0, "groups end where the walk may");
  const Vec px = set(static_cast<float>(block.x - list.tile_x)) + lane_x(),
            py = set(static_cast<float>(block.y - list.tile_y)) + lane_y();
  const Vec alpha_max = set(view.settings.alpha_max), t_min = set(view.settings.transmittance_min);
  const int x = (block.x - list.tile_x) / BLOCK_SIDE, y = (block.y - list.tile_y) / BLOCK_SIDE;
  int32_t candidates[BATCH + TileList::STEP];
  Vec T = keep(from_bits(block.inside), set(1.f)), end = T;
  Mask alive = from_bits(block.inside);
  for (int64_t start = 0; start < list.length;) {
    int n = 0;
    for (; start < list.length && n < (start < list.filled ? MANY : ENOUGH); start += TileList::STEP) {
      if (list.filled <= start) list.fill(start + TileList::STEP);
      n += list.candidates_of(x, y, start, candidates + n);
    }
    for (int k = 0; k < CHECK - 1; ++k) candidates[n + k] = static_cast<int32_t>(list.length);
    int i = 0;
    for (bool finished = false; i < n && !finished; i += CHECK) {
      for (int first = i; first < i + CHECK; first += GROUP) {
        const float* splat[GROUP];
        Vec u[GROUP], v[GROUP], power[GROUP], alpha[GROUP];
#define GS_EACH GS_UNROLL for (int k = 0; k < GROUP; ++k)
        GS_EACH splat[k] = list.record(candidates[first + k]);
        GS_EACH u[k] = px - set(splat[k][TileList::X]);
        GS_EACH v[k] = py - set(splat[k][TileList::Y]);
        GS_EACH u[k] = u[k] * set(splat[k][TileList::UX]);
        GS_EACH u[k] = fma(v[k], set(splat[k][TileList::UY]), u[k]);
        GS_EACH v[k] = v[k] * set(splat[k][TileList::VY]);
        GS_EACH power[k] = fnma(v[k], v[k], set(splat[k][TileList::PEAK]));
        GS_EACH alpha[k] = power[k] = fnma(u[k], u[k], power[k]);
        exp2_fast<GROUP>(alpha);
        GS_EACH alpha[k] = keep(ge(power[k], set(splat[k][TileList::LIMIT])), vmin(alpha[k], alpha_max));
        GS_EACH {
          const Vec weight = alpha[k] * T, next = T - weight;
          alive = gt(next, t_min);
          draw(candidates[first + k], keep(alive, weight), alpha[k], T, alive);
          end = select(alive, next, end);
          T = next;
        }
#undef GS_EACH
      }
      finished = done(alive, T);
    }
    flush();
    list.evaluations += imin(i, n);
    if (done(alive, T)) break;
  }
  return end;
}

// Asks for the pixels of a tile, `bytes` each, of an image in memory that nobody touched lately.
GS_INLINE void prefetch_tile(const void* image, int64_t bytes, const View& view, const TileList& list) {
  const int64_t width = view.camera.width;
  const int stop_x = imin(list.tile_x + view.tile_size, view.camera.width);
  const int stop_y = imin(list.tile_y + view.tile_size, view.camera.height);
  for (int y = list.tile_y; y < stop_y; ++y) {
    const char* begin = static_cast<const char*>(image) + (y * width + list.tile_x) * bytes;
    const char* end = static_cast<const char*>(image) + (y * width + stop_x) * bytes;
    for (; begin < end; begin += 64) __builtin_prefetch(begin, 0, 2);
    __builtin_prefetch(end - 1, 0, 2);
  }
}

template <class Draw, class Done>
GS_INLINE Vec walk(const View& view, TileList& list, const PixelBlock& block, Draw&& draw, Done&& done) {
  return walk(view, list, block, static_cast<Draw&&>(draw), static_cast<Done&&>(done), [] {});
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
