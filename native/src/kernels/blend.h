// Colour, depth, alpha and feature channels: out(p) = sum_i w_i(p) value_i, front to back.
//
// Accumulators stay in registers: one pass carries colour and depth and up to 16 feature channels; more channels take
// further passes over the same tile list. depth = sum w z / sum w, alpha = sum w = 1 - T, rgb += T background.
#pragma once

#include "tile.h"

namespace gs {
namespace GS_ISA {

// `color`: this pass carries colour and depth. `channels`: feature channels of this pass, read from
// features[row * stride + k], written to out[pixel * out_stride + k].
template <bool color, int channels>
void blend_tile(View& view, TileList& list, const float* features, int64_t stride, float* out, int64_t out_stride,
                const float* background, const Images& images) {
  const int64_t width = view.camera.width;
  if (channels) list.carry_features(features, channels, stride);
  for_each_block(view, list, [&](const PixelBlock& block) {
    Vec f[PASS];
    Vec red = zero(), green = zero(), blue = zero(), depth = zero();
    GS_UNROLL for (int c = 0; c < channels; ++c) f[c] = zero();
    const Vec T = walk(
        view, list, block,
        [&](int k, Vec w, Vec, Vec, Mask) __attribute__((always_inline)) {
          if (color) {
            red = fma(w, set(list.at(TileList::RED, k)), red);
            green = fma(w, set(list.at(TileList::GREEN, k)), green);
            blue = fma(w, set(list.at(TileList::BLUE, k)), blue);
            depth = fma(w, set(list.at(TileList::DEPTH, k)), depth);
          }
          if (channels) {
            const float* value = list.features + static_cast<int64_t>(k) * PASS;
            GS_UNROLL for (int c = 0; c < channels; ++c) f[c] = fma(w, set(value[c]), f[c]);
          }
        },
        [](Mask alive, Vec) __attribute__((always_inline)) { return !any(alive); });
    if (color) {
      const Vec alpha = set(1.f) - T;
      put(alpha, block, images.alpha, width);
      put(select(gt(alpha, zero()), depth / alpha, zero()), block, images.depth, width);
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
    if (channels) {
      GS_UNROLL for (int c = channels; c < PASS; ++c) f[c] = zero();
      transpose16(f);
      GS_UNROLL for (int i = 0; i < LANES; ++i) {
        if (i / 4 >= block.height || i % 4 >= block.width) continue;
        float* pixel = out + ((block.y + i / 4) * width + block.x + i % 4) * out_stride;
        if (channels == PASS) {
          store(pixel, f[i]);
        } else {
          alignas(64) float t[LANES];
          store(t, f[i]);
          std::memcpy(pixel, t, channels * sizeof(float));
        }
      }
    }
  });
}

// The features have a multiple of four channels.
inline void blend(View& view, const float* features, int channels, const float* background, const Images& images,
                  int threads) {
  for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
    TileList list(view, tile, scratch, true);
    bool first = true;
    int done = 0;
    do {
      const int left = channels - done, n = left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : 0;
      const float* in = features + done;
      float* out = images.features + done;
      auto pass = [&](auto with_color, auto count) {
        blend_tile<decltype(with_color)::value, decltype(count)::value>(view, list, in, channels, out, channels,
                                                                        background, images);
      };
      auto select_width = [&](auto with_color) {
        switch (n) {
          case 16:
            pass(with_color, Constant<16>{});
            break;
          case 8:
            pass(with_color, Constant<8>{});
            break;
          case 4:
            pass(with_color, Constant<4>{});
            break;
          default:
            pass(with_color, Constant<0>{});
            break;
        }
      };
      if (first)
        select_width(Constant<true>{});
      else
        select_width(Constant<false>{});
      first = false;
      done += n;
    } while (done < channels);
  });
}

}  // namespace GS_ISA
}  // namespace gs
