// Colour, depth, alpha and feature channels: out(p) = sum_i w_i(p) value_i, front to back.
//
// One pass carries colour and depth and up to 16 feature channels; more channels take further passes over the same tile
// list. depth = sum w z / sum w, alpha = sum w = 1 - T, rgb += T background. The median depth is that of the splat at
// which the transmittance falls to 1/2 (0 where it never does).
#pragma once

#include "tile.h"

namespace gs {
namespace GS_ISA {

// `color`: this pass carries colour and depth, with `with_median` the median depth, too. `channels`: feature channels of this pass, read from
// features[row * stride + k], written to out[pixel * stride + k].
//
// The walk only notes the weights for the features; their sums follow per batch, with one register per pixel that holds
// its channels, so that a splat's features are read once for all pixels and the results lie as the image wants them.
template <bool color, bool with_features, bool with_median>
void blend_tile(View& view, TileList& list, const float* features, int channels, int64_t stride, float* out,
                const float* background, const Images& images) {
  const int64_t width = view.camera.width;
  if (with_features) list.carry_features(features, channels, stride);
  alignas(64) float weights[with_features ? BATCH : 1][LANES];
  int32_t weighted[with_features ? BATCH : 1];
  for_each_block(view, list, [&](const PixelBlock& block) {
    alignas(64) float sums[LANES][LANES];
    if (with_features) GS_UNROLL for (int p = 0; p < LANES; ++p) store(sums[p], zero());
    Vec red = zero(), green = zero(), blue = zero(), depth = zero(), median = zero();
    int noted = 0;
    const Vec T = walk(
        view, list, block,
        [&](int k, Vec w, Vec, Vec T_before, Mask) __attribute__((always_inline)) {
          if (color) {
            red = fma(w, set(list.at(TileList::RED, k)), red);
            green = fma(w, set(list.at(TileList::GREEN, k)), green);
            blue = fma(w, set(list.at(TileList::BLUE, k)), blue);
            depth = fma(w, set(list.at(TileList::DEPTH, k)), depth);
          }
          if (with_median) {
            const Mask passes = both(gt(T_before, set(0.5f)), both(ge(set(0.5f), T_before - w), gt(w, zero())));
            median = select(passes, set(list.at(TileList::DEPTH, k)), median);
          }
          if (with_features) {
            store(weights[noted], w);
            weighted[noted] = k;
            noted += any(gt(w, zero()));
          }
        },
        [](Mask alive, Vec) __attribute__((always_inline)) { return !any(alive); },
        [&]() __attribute__((always_inline)) {
          if (!with_features) return;
          Vec sum[LANES];
          GS_UNROLL for (int p = 0; p < LANES; ++p) sum[p] = load(sums[p]);
          for (int i = 0; i < noted; ++i) {
            const Vec value = load(list.features + static_cast<int64_t>(weighted[i]) * PASS);
            GS_UNROLL for (int p = 0; p < LANES; ++p) sum[p] = fma(value, set(weights[i][p]), sum[p]);
          }
          GS_UNROLL for (int p = 0; p < LANES; ++p) store(sums[p], sum[p]);
          noted = 0;
        });
    if (color) {
      const Vec alpha = set(1.f) - T;
      put(alpha, block, images.alpha, width);
      put(select(gt(alpha, zero()), depth / alpha, zero()), block, images.depth, width);
      if (with_median) put(median, block, images.median_depth, width);
      alignas(64) float rgb[3][LANES];
      const Vec rest = background ? T : zero();
      store(rgb[0], background ? fma(rest, set(background[0]), red) : red);
      store(rgb[1], background ? fma(rest, set(background[1]), green) : green);
      store(rgb[2], background ? fma(rest, set(background[2]), blue) : blue);
      for (int r = 0; r < block.height; ++r) {
        float* pixel = images.rgb + 3 * ((block.y + r) * width + block.x);
        for (int c = 0; c < block.width; ++c)
          for (int k = 0; k < 3; ++k) pixel[3 * c + k] = rgb[k][4 * r + c];
      }
    }
    if (with_features)
      for (int r = 0; r < block.height; ++r)
        for (int c = 0; c < block.width; ++c) {
          float* pixel = out + ((block.y + r) * width + block.x + c) * stride;
          if (channels == PASS)
            store(pixel, load(sums[4 * r + c]));
          else
            store_first(pixel, load(sums[4 * r + c]), channels);
        }
  });
}

template <bool with_median>
void blend_with(View& view, const float* features, int channels, const float* background, const Images& images,
                int threads) {
  for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
    TileList list(view, tile, scratch);
    if (channels == 0)
      return blend_tile<true, false, with_median>(view, list, nullptr, 0, 0, nullptr, background, images);
    blend_tile<true, true, with_median>(view, list, features, imin(channels, PASS), channels, images.features,
                                        background, images);
    for (int done = PASS; done < channels; done += PASS)
      blend_tile<false, true, false>(view, list, features + done, imin(channels - done, PASS), channels,
                                     images.features + done, background, images);
  });
}

inline void blend(View& view, const float* features, int channels, const float* background, const Images& images,
                  int threads) {
  if (images.median_depth)
    blend_with<true>(view, features, channels, background, images, threads);
  else
    blend_with<false>(view, features, channels, background, images, threads);
}

}  // namespace GS_ISA
}  // namespace gs
