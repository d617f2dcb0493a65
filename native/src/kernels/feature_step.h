// A step of features alone, geometry as it is: loss = mean of (f - f*)^2 over the pixels whose target is not NaN.
//
// One walk over the image renders a tile, compares, and goes backward through the same records; Adam follows. As geometry
// stays, the next step on the same view draws the same splats with the same weights. Where the caller grants memory (68
// bytes for a splat on a block), they are kept: the first step counts them, the second stores them, and from then on
// there is nothing left to sort, list or walk. The sums, and so the result, are the same to the last bit.
#pragma once

#include "step.h"

namespace gs {
namespace GS_ISA {

// The part of one tile in Kept::memory.
struct KeptTile {
  struct Block {
    PixelBlock pixels;
    int32_t records;
  };
  Block* blocks;
  uint32_t *row, *entry;  // of the splats that are drawn, in the order in which blocks meet them
  int32_t* splat;         // by record, block after block: which of them
  float* w;               // by record: 16 weights

  KeptTile(const Kept& kept, int64_t tile) {
    uint8_t* at = kept.memory.data + kept.tiles[tile].start;
    auto take = [&](int64_t bytes) {
      uint8_t* part = at;
      at += whole_lines(bytes);
      return part;
    };
    const Kept::Tile& size = kept.tiles[tile];
    blocks = reinterpret_cast<Block*>(take(size.blocks * sizeof(Block)));
    row = reinterpret_cast<uint32_t*>(take(size.splats * sizeof(uint32_t)));
    entry = reinterpret_cast<uint32_t*>(take(size.splats * sizeof(uint32_t)));
    splat = reinterpret_cast<int32_t*>(take(size.records * sizeof(int32_t)));
    w = reinterpret_cast<float*>(at);
  }

  static int64_t whole_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  static int64_t bytes(const Kept::Tile& size) {
    return whole_lines(size.blocks * sizeof(Block)) + 2 * whole_lines(size.splats * sizeof(uint32_t)) +
           whole_lines(size.records * sizeof(int32_t)) + size.records * LANES * sizeof(float);
  }
};

// Counts or stores what a walk over one tile draws.
class Keeper {
 public:
  Keeper(View& view, const TileList& list, int64_t tile, Scratch& scratch, bool store)
      : view_(view), list_(list), tile_(tile), store_(store) {
    place_ = scratch.counts.reserve(list.length);
    std::memset(place_, 255, list.length * sizeof *place_);
  }

  void add(const PixelBlock& block, const Records& records) {
    if (store_) {
      const KeptTile to(view_.kept, tile_);
      to.blocks[size_.blocks] = {block, records.count};
      std::memcpy(to.w + static_cast<int64_t>(size_.records) * LANES, records.w, records.count * LANES * sizeof(float));
      for (int i = 0; i < records.count; ++i) {
        const int32_t k = records.splat[i];
        if (place_[k] < 0) {
          to.row[size_.splats] = list_.row[k];
          to.entry[size_.splats] = static_cast<uint32_t>(entry_of(view_, list_.position[k], tile_));
          place_[k] = size_.splats++;
        }
        to.splat[size_.records + i] = place_[k];
      }
    } else {
      for (int i = 0; i < records.count; ++i)
        if (place_[records.splat[i]] < 0) place_[records.splat[i]] = size_.splats++;
    }
    size_.records += records.count;
    ++size_.blocks;
  }

  void finish() const {
    if (!store_) view_.kept.tiles[tile_] = size_;
  }

 private:
  View& view_;
  const TileList& list_;
  int64_t tile_;
  bool store_;
  int32_t* place_;  // of the list's splats among those that are drawn, -1: not drawn yet
  Kept::Tile size_ = {0, 0, 0, 0};
};

// From a block's features to their gradients, in place; returns the sum of squares.
GS_INLINE float compare_with_target(const FeatureLoss& loss, const PixelBlock& block, int64_t width,
                                    float (*rows)[LANES]) {
  const int channels = loss.channels;
  const Vec scale = set(loss.scale);
  Vec squares = zero();
  for (int r = 0; r < BLOCK_SIDE; ++r) {
    const float* target = loss.target + ((block.y + r) * width + block.x) * channels;
    for (int c = 0; c < BLOCK_SIDE; ++c, target += channels) {
      float* row = rows[BLOCK_SIDE * r + c];
      if (r >= block.height || c >= block.width) {
        store(row, zero());
        continue;
      }
      const Vec wanted = load_first(target, channels), e = keep(ge(wanted, wanted), load(row) - wanted);
      squares = fma(e, e, squares);
      store(row, scale * e);
    }
  }
  return sum(squares);
}

inline double walk_feature_tile(View& view, const FeatureLoss& loss, const AdamState& state, int64_t tile,
                                Scratch& scratch, bool count, bool store_kept) {
  const int64_t width = view.camera.width;
  const int channels = loss.channels;
  TileList list(view, tile, scratch);
  prefetch_tile(loss.target, channels * sizeof(float), view, list);
  list.carry_features(state.features, channels, channels);
  const TileSums out(list, scratch, LANES);
  Records records(list, scratch);
  Keeper keeper(view, list, tile, scratch, store_kept);
  double total = 0.0;
  for_each_block(view, list, [&](const PixelBlock& block) {
    record<false>(view, list, block, records, [](int, Vec) __attribute__((always_inline)) {});
    alignas(64) float rows[LANES][LANES];
    blend_features(list.features, records, rows);
    total += compare_with_target(loss, block, width, rows);
    if (count || store_kept) keeper.add(block, records);
    out.mark(records);
    add_feature_sums(records, rows, out.sums, out.width);
  });
  if (count) keeper.finish();
  out.flush(view, list, tile);
  return total;
}

inline double kept_feature_tile(View& view, const FeatureLoss& loss, const AdamState& state, int64_t tile,
                                Scratch& scratch) {
  constexpr int AHEAD = 48;
  const Kept::Tile& size = view.kept.tiles[tile];
  const KeptTile kept(view.kept, tile);
  const int64_t width = view.camera.width;
  const int channels = loss.channels;
  float *features = scratch.features.reserve(static_cast<int64_t>(size.splats) * PASS),
        *sums = scratch.sums.reserve(static_cast<int64_t>(size.splats) * LANES);
  for (int i = 0; i < size.splats; ++i) {
    if (i + AHEAD < size.splats) __builtin_prefetch(state.features + int64_t{kept.row[i + AHEAD]} * channels);
    const float* from = state.features + int64_t{kept.row[i]} * channels;
    store(features + i * PASS, channels == PASS ? load(from) : load_first(from, channels));
    store(sums + i * LANES, zero());
  }
  double total = 0.0;
  Records records;
  records.splat = kept.splat;
  records.w = kept.w;
  for (int b = 0; b < size.blocks; ++b) {
    const PixelBlock& block = kept.blocks[b].pixels;
    records.count = kept.blocks[b].records;
    if (b + 1 < size.blocks) {
      const PixelBlock& next = kept.blocks[b + 1].pixels;
      for (int r = 0; r < next.height; ++r) {
        const float* line = loss.target + ((next.y + r) * width + next.x) * channels;
        for (int i = 0; i < next.width * channels; i += LANES) __builtin_prefetch(line + i);
      }
    }
    alignas(64) float rows[LANES][LANES];
    blend_features<AHEAD>(features, records, rows);
    total += compare_with_target(loss, block, width, rows);
    add_feature_sums(records, rows, sums, LANES);
    records.splat += records.count;
    records.w += records.count * LANES;
  }
  for (int i = 0; i < size.splats; ++i) {
    if (i + AHEAD < size.splats)
      __builtin_prefetch(view.partials.data + int64_t{kept.entry[i + AHEAD]} * LANES, 1);
    store(view.partials.data + int64_t{kept.entry[i]} * LANES, load(sums + i * LANES));
    view.touched[kept.entry[i]] = 1;
  }
  return total;
}

// Returns the sum of squares. keep_bytes: what the view may use to keep what it draws.
inline double step_features(View& view, const FeatureLoss& loss, const AdamState& state, float* steps,
                            int64_t keep_bytes, int threads) {
  const int64_t tiles = static_cast<int64_t>(view.tiles_x) * view.tiles_y;
  const int channels = loss.channels;
  Kept& kept = view.kept;
  const bool count = keep_bytes > 0 && kept.stage == Kept::NOTHING;
  const bool store_kept = kept.stage == Kept::COUNTED && kept.bytes <= keep_bytes;
  if (count) kept.tiles.reserve(tiles);
  if (store_kept) kept.memory.reserve(kept.bytes);
  Buffer<double> errors;
  errors.reserve(tiles);
  begin_partials(view, LANES);
  for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
    errors[tile] = kept.stage == Kept::STORED
                       ? kept_feature_tile(view, loss, state, tile, scratch)
                       : walk_feature_tile(view, loss, state, tile, scratch, count, store_kept);
  });
  if (count) {
    kept.bytes = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      kept.tiles[tile].start = kept.bytes;
      kept.bytes += KeptTile::bytes(kept.tiles[tile]);
    }
    kept.stage = Kept::COUNTED;
  }
  if (store_kept) kept.stage = Kept::STORED;
  parallel(threads, view.blocks, [&](int64_t block, int) {
    const int64_t begin = block * BLOCK, stop = begin + view.base[block + 1] - view.base[block];
    for (int64_t first = begin; first < stop; first += LANES) {
      const int lanes = stop - first < LANES ? static_cast<int>(stop - first) : LANES;
      for (int64_t i = first + 2 * LANES; i < first + 3 * LANES && i < stop; ++i) {
        prefetch_partials<LANES>(view, i);
        prefetch_features(state, channels, view.row[i]);
        __builtin_prefetch(steps + view.row[i], 1);
      }
      Vec g[LANES];
      int64_t row[LANES];
      uint32_t seen = 0;
      for (int i = 0; i < lanes; ++i) {
        row[i] = view.row[first + i];
        seen |= static_cast<uint32_t>(sum_partials<LANES>(view, first + i, g + i)) << i;
      }
      move_features(state, channels, steps, 1, row, lanes, seen, g);
    }
  });
  double total = 0.0;
  for (int64_t tile = 0; tile < tiles; ++tile) total += errors[tile];
  return total;
}

}  // namespace GS_ISA
}  // namespace gs
