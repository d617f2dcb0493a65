// Object ids by a vote with two slots per pixel.
//
// A splat adds its weight to the slot that holds its id; an id in neither slot takes the weaker slot if its weight is
// larger. The heavier slot wins; its weight sum is the confidence. A pixel stops early once the rest of its
// transmittance cannot change the winner and is below `rest`, so the confidence is at most `rest` too low.
#pragma once

#include "tile.h"

namespace gs {
namespace GS_ISA {

inline void vote(View& view, const int32_t* ids, float rest, int32_t* winner, float* confidence, float* depth,
                 int threads) {
  const int64_t width = view.camera.width;
  for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
    TileList list(view, tile, scratch, ids);
    for_each_block(view, list, [&](const PixelBlock& block) {
      Vec id0 = zero(), id1 = zero(), w0 = zero(), w1 = zero(), z = zero(), sum_w = zero();
      const Mask inside = from_bits(block.inside);
      walk(
          view, list, block,
          [&](int k, Vec w, Vec, Vec, Mask) __attribute__((always_inline)) {
            const Vec id = set(list.at(TileList::ID, k));
            z = fma(w, set(list.at(TileList::DEPTH, k)), z);
            sum_w = sum_w + w;
            // Votes for an empty slot's id (0) find it by equality, so no slot needs to be marked empty.
            const Mask in0 = eq_bits(id0, id), out0 = without(inside, in0);
            w0 = w0 + keep(in0, w);
            if (!any(out0)) return;
            const Mask in1 = both(out0, eq_bits(id1, id));
            w1 = w1 + keep(in1, w);
            const Mask replace = both(without(out0, in1), gt(w, w1));
            w1 = select(replace, w, w1);
            id1 = select(replace, id, id1);
            const Mask swap = gt(w1, w0);
            const Vec w_low = select(swap, w0, w1), id_low = select(swap, id0, id1);
            w0 = select(swap, w1, w0);
            id0 = select(swap, id1, id0);
            w1 = w_low;
            id1 = id_low;
          },
          [&](Mask alive, Vec T)
              __attribute__((always_inline)) { return !any(both(alive, either(gt(T, set(rest)), gt(T + w1, w0)))); });
      put(id0, block, reinterpret_cast<float*>(winner), width);
      put(w0, block, confidence, width);
      put(select(gt(sum_w, zero()), z / sum_w, zero()), block, depth, width);
    });
  });
}

}  // namespace GS_ISA
}  // namespace gs
