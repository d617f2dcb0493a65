// One optimisation step in one walk over the image: render a tile, compare, go backward through the same records, and
// move the Gaussians by Adam as soon as their gradients are known. Neither images nor gradients go through memory.
//
// The loss and its gradient, pixel by pixel, are those of residual.h. Adam:
//     m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
//     x -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps),
// for the Gaussians that some pixel drew; t counts each one's own steps. Their state is one row each (see types.h).
#pragma once

#include "adam.h"
#include "backward.h"

namespace gs {
namespace GS_ISA {

struct TileError {
  double colour;
  int64_t strangers;  // pixels whose slot has no code
};

// Colour and depth of a block from its sums; returns the sum of |c - c*|.
GS_INLINE float compare_colour(const WindowLoss& loss, const PixelBlock& block, int64_t width, const Vec* sums, Vec T,
                               BlockGradients& g) {
  const Mask inside = from_bits(block.inside);
  alignas(64) float target[3][LANES] = {};
  for (int r = 0; r < block.height; ++r)
    for (int c = 0; c < block.width; ++c)
      for (int k = 0; k < 3; ++k) target[k][4 * r + c] = loss.rgb[3 * ((block.y + r) * width + block.x + c) + k];
  Vec error = zero();
  const Vec red = load(target[0]);
  const Mask compared = both(inside, ge(red, red));  // NaN: whatever is rendered there is right
  for (int k = 0; k < 3; ++k) {
    const Vec e = keep(compared, sums[k] - load(target[k]));
    error = error + vabs(e);
    g.value[k] = clamp(e * set(loss.colour_scale), set(-1.f), set(1.f));
  }
  if (loss.depth) {
    const Vec alpha = set(1.f) - T, depth = sums[3] / alpha, z = get(loss.depth, block, width), e = depth - z;
    const Vec near = fma(set(loss.near_per_m2) * z, z, set(loss.near));
    const Mask close = both(both(gt(z, zero()), gt(alpha, set(0.5f))), gt(near, vabs(e)));
    const Vec g_depth = set(loss.depth_weight) * clamp(e * set(loss.depth_scale), set(-1.f), set(1.f));
    g.value[3] = keep(both(inside, close), g_depth / alpha);
    g.w = -(g.value[3] * keep(both(inside, close), depth));
  }
  for (int k = 0; k < 4; ++k) store(g.value_rows[k], g.value[k]);
  return sum(error);
}

// Features of a block from its records, against the codes of its slots.
GS_INLINE int64_t compare_features(const WindowLoss& loss, const TileList& list, const Records& records,
                                   const PixelBlock& block, int64_t width, BlockGradients& g) {
  blend_features(list, records, g.feature_rows);
  int64_t strangers = 0;
  const Vec weight = set(loss.feature_weight);
  for (int p = 0; p < LANES; ++p) {
    const int r = p / 4, c = p % 4;
    int64_t slot = 0;
    if (r < block.height && c < block.width) slot = loss.slots[(block.y + r) * width + block.x + c];
    if (slot < 0 || slot >= loss.code_count) ++strangers, slot = 0;
    if (slot == 0) {
      store(g.feature_rows[p], zero());
      continue;
    }
    const Vec code = load_first(loss.codes + slot * loss.channels, loss.channels);
    store(g.feature_rows[p], weight * (load(g.feature_rows[p]) - code));
  }
  if (loss.features_move_geometry) {
    for (int p = 0; p < LANES; ++p) g.feature[p] = load(g.feature_rows[p]);
    transpose16(g.feature);
  }
  return strangers;
}

template <bool features>
void step_tile(View& view, TileList& list, const WindowLoss& loss, int64_t tile, Scratch& scratch, TileError& error) {
  const int64_t width = view.camera.width;
  prefetch_tile(loss.rgb, 3 * sizeof(float), view, list);
  if (loss.depth) prefetch_tile(loss.depth, sizeof(float), view, list);
  if (features) {
    prefetch_tile(loss.slots, sizeof(int64_t), view, list);
    list.carry_features(loss.features, loss.channels, loss.channels);
  }
  const TileSums out(list, scratch, features ? 2 * LANES : LANES);
  Records records(list, scratch);
  const Vec alpha_max = set(view.settings.alpha_max);
  for_each_block(view, list, [&](const PixelBlock& block) {
    Vec sums[4] = {zero(), zero(), zero(), zero()};
    const Vec T = record(view, list, block, records, [&](int k, Vec w) __attribute__((always_inline)) {
      sums[0] = fma(w, set(list.at(TileList::RED, k)), sums[0]);
      sums[1] = fma(w, set(list.at(TileList::GREEN, k)), sums[1]);
      sums[2] = fma(w, set(list.at(TileList::BLUE, k)), sums[2]);
      sums[3] = fma(w, set(list.at(TileList::DEPTH, k)), sums[3]);
    });
    BlockGradients g;
    error.colour += compare_colour(loss, block, width, sums, T, g);
    if (features) error.strangers += compare_features(loss, list, records, block, width, g);
    if (records.count == 0) return;
    out.mark(records);
    if (features && loss.features_move_geometry)
      composite_backward<true, PASS>(list, records, alpha_max, g.w, g.value, g.feature);
    else
      composite_backward<true, 0>(list, records, alpha_max, g.w, g.value, nullptr);
    add_splat_sums<true>(records, block, g.value_rows, out.sums, out.width);
    if (features) add_feature_sums(records, g.feature_rows, out.sums + LANES, out.width);
  });
  out.flush(view, list, tile);
}

// 1 / (1 - b1^t) and 1 / sqrt(1 - b2^t).
struct BiasCorrections {
  alignas(64) float unbias[LANES], scale[LANES];

  GS_INLINE BiasCorrections(const AdamState& state, Vec t) {
    auto power = [&](float beta) __attribute__((always_inline)) {
      return exp2_exact(t * set(beta > 1e-30f ? __builtin_log2f(beta) : -100.f));
    };
    store(unbias, set(1.f) / (set(1.f) - power(state.beta1)));
    store(scale, set(1.f) / vsqrt(set(1.f) - power(state.beta2)));
  }
};

// Takes the moments of up to 16 values on; returns the step before its learning rate.
GS_INLINE Vec adam_direction(const AdamState& state, float unbias, float scale, Vec grad, Vec& m, Vec& v) {
  m = fma(set(state.beta1), m, set(1.f - state.beta1) * grad);
  v = fma(set(state.beta2), v, set(1.f - state.beta2) * grad * grad);
  return set(unbias) * m / fma(vsqrt(v), set(scale), set(state.eps));
}

// What AdamState::rows holds of a Gaussian: the first moments in this order, the second moments after 16 floats, and
// then both of the colour's further coefficients.
enum AdamRow { ROW_MEAN = 0, ROW_QUAT = 3, ROW_LOG_SCALE = 7, ROW_LOGIT = 10, ROW_DC = 11, ROW_STEPS = 14, ROW_FEATURE_STEPS };

GS_INLINE int64_t adam_row_width(int sh_count) { return 2 * LANES + 6 * (sh_count - 1); }

inline void move_geometry(const AdamState& state, const Parameters& p, const SplatGroup& s) {
  const int rest = 3 * (p.sh_count - 1);
  const int64_t width = adam_row_width(p.sh_count);
  alignas(64) float rate[LANES] = {}, t[LANES], step[LANES];
  for (int k = 0; k < 3; ++k) {
    rate[ROW_MEAN + k] = state.lr_means;
    rate[ROW_LOG_SCALE + k] = state.lr_log_scales;
    rate[ROW_DC + k] = state.lr_sh;
  }
  for (int k = 0; k < 4; ++k) rate[ROW_QUAT + k] = state.lr_quats;
  rate[ROW_LOGIT] = state.lr_opacity_logits;
  for (int i = 0; i < LANES; ++i) t[i] = state.rows[s.row[i] * width + ROW_STEPS] + 1.f;
  const BiasCorrections bias(state, load(t));
  Vec g[LANES];
  for (int k = 0; k < 3; ++k) g[ROW_MEAN + k] = s.mean[k], g[ROW_LOG_SCALE + k] = s.log_scale[k], g[ROW_DC + k] = s.dc[k];
  for (int k = 0; k < 4; ++k) g[ROW_QUAT + k] = s.quat[k];
  g[ROW_LOGIT] = s.logit;
  g[ROW_STEPS] = g[ROW_FEATURE_STEPS] = zero();
  transpose16(g);
  for (int i = 0; i < s.lanes; ++i) {
    if (!(s.seen >> i & 1)) continue;
    const int64_t row = s.row[i];
    float* moments = state.rows + row * width;
    Vec m = load(moments), v = load(moments + LANES);
    const float feature_steps = moments[ROW_FEATURE_STEPS];
    store(step, load(rate) * adam_direction(state, bias.unbias[i], bias.scale[i], g[i], m, v));
    store(moments, m);
    store(moments + LANES, v);
    moments[ROW_STEPS] = t[i];
    moments[ROW_FEATURE_STEPS] = feature_steps;
    float* sh = state.sh + row * (3 + rest);
    for (int k = 0; k < 3; ++k) {
      state.means[3 * row + k] -= step[ROW_MEAN + k];
      state.log_scales[3 * row + k] -= step[ROW_LOG_SCALE + k];
      sh[k] -= step[ROW_DC + k];
    }
    for (int k = 0; k < 4; ++k) state.quats[4 * row + k] -= step[ROW_QUAT + k];
    state.opacity_logits[row] -= step[ROW_LOGIT];
    if (rest)
      adam_stretch(sh + 3, s.sh_rest[i], moments + 2 * LANES, moments + 2 * LANES + rest, rest,
                   {state.beta1, state.beta2, state.lr_sh * bias.unbias[i], bias.scale[i], state.eps});
    state.changed[row / CHUNK] = 1;
    if (state.moved) state.moved[row] = 1;
  }
}

// Up to 16 rows of features down their gradients g; feature_moments is (N, 2, channels).
inline void move_features(const AdamState& state, int channels, float* steps, int64_t steps_stride, const int64_t* row,
                          int lanes, uint32_t seen, const Vec* g) {
  alignas(64) float t[LANES] = {};
  for (int i = 0; i < lanes; ++i) t[i] = steps[row[i] * steps_stride] + 1.f;
  const BiasCorrections bias(state, load(t));
  for (int i = 0; i < lanes; ++i) {
    if (!(seen >> i & 1)) continue;
    float *x = state.features + row[i] * channels, *moments = state.feature_moments + row[i] * 2 * channels;
    Vec m = load_first(moments, channels), v = load_first(moments + channels, channels);
    const Vec step = adam_direction(state, bias.unbias[i], bias.scale[i], g[i], m, v);
    store_first(moments, m, channels);
    store_first(moments + channels, v, channels);
    store_first(x, load_first(x, channels) - set(state.lr_features) * step, channels);
    steps[row[i] * steps_stride] = t[i];
  }
}

// The rows that nobody moved go on with a gradient of zero.
inline void move_others(const AdamState& state, const Parameters& p, int channels, int threads) {
  parallel(threads, (p.count + BLOCK - 1) / BLOCK, [&](int64_t block, int) {
    SplatGroup s;
    std::memset(static_cast<void*>(&s), 0, sizeof s);
    const int64_t stop = (block + 1) * BLOCK < p.count ? (block + 1) * BLOCK : p.count;
    for (int64_t first = block * BLOCK; first < stop; first += LANES) {
      s.lanes = stop - first < LANES ? static_cast<int>(stop - first) : LANES;
      s.seen = 0;
      for (int i = 0; i < LANES; ++i) {
        s.row[i] = first + imin(i, s.lanes - 1);
        if (i < s.lanes && !state.moved[s.row[i]]) s.seen |= 1u << i;
      }
      if (!s.seen) continue;
      if (channels)
        move_features(state, channels, state.rows + ROW_FEATURE_STEPS, adam_row_width(p.sh_count), s.row, s.lanes, s.seen,
                      s.feature);
      move_geometry(state, p, s);
    }
  });
}

GS_INLINE void prefetch_features(const AdamState& state, int channels, int64_t row) {
  __builtin_prefetch(state.features + row * channels, 1);
  for (int k = 0; k < 2 * channels; k += LANES) __builtin_prefetch(state.feature_moments + row * 2 * channels + k, 1);
}

// From the partials of a tile pass to moved Gaussians; also(SplatGroup) sees the gradients before.
template <int WIDTH, class Also>
void move_what_is_seen(View& view, const Parameters& p, const AdamState* state, int channels, float* pose, int threads,
                       Also&& also) {
  const int64_t width = adam_row_width(p.sh_count);
  auto soon = [&](int64_t row) __attribute__((always_inline)) {
    if (!state) return;
    for (int64_t k = 0; k < width; k += LANES) __builtin_prefetch(state->rows + row * width + k, 1);
    __builtin_prefetch(state->sh + row * 3 * p.sh_count, 1);
    if (channels) prefetch_features(*state, channels, row);
  };
  project_backward<WIDTH>(view, p, false, pose, threads, soon, [&](const SplatGroup& s) {
    also(s);
    if (!state) return;
    if (channels) move_features(*state, channels, state->rows + ROW_FEATURE_STEPS, width, s.row, s.lanes, s.seen, s.feature);
    move_geometry(*state, p, s);
  });
  if (state && state->moved) move_others(*state, p, channels, threads);
}

// Returns the number of pixels whose slot has no code; nothing moves then. `state` may be null: nothing moves, which
// leaves the pose's gradient.
template <bool features>
int64_t step_pass(View& view, const Parameters& p, const WindowLoss& loss, const AdamState* state, float* pose,
                  double* error, int threads) {
  constexpr int WIDTH = features ? 2 * LANES : LANES;
  const int64_t tiles = static_cast<int64_t>(view.tiles_x) * view.tiles_y;
  Buffer<TileError> errors;
  errors.reserve(tiles);
  begin_partials(view, WIDTH);
  for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
    TileError own = {0.0, 0};
    TileList list(view, tile, scratch);
    step_tile<features>(view, list, loss, tile, scratch, own);
    errors[tile] = own;
  });
  TileError total = {0.0, 0};
  for (int64_t tile = 0; tile < tiles; ++tile) {
    total.colour += errors[tile].colour;
    total.strangers += errors[tile].strangers;
  }
  *error = total.colour;
  if (total.strangers || (!state && !pose)) return total.strangers;
  move_what_is_seen<WIDTH>(view, p, state, features ? loss.channels : 0, pose, threads, [](const SplatGroup&) {});
  return 0;
}

inline int64_t step(View& view, const Parameters& p, const WindowLoss& loss, const AdamState* state, float* pose,
                    double* error, int threads) {
  if (loss.features) return step_pass<true>(view, p, loss, state, pose, error, threads);
  return step_pass<false>(view, p, loss, state, pose, error, threads);
}

// A step from the gradients of images that were rendered before; at most 16 channels. means2d_norm and radii, by visible
// splat, may be null.
inline void step_images(View& view, const Parameters& p, const float* features, int channels, const float* background,
                        const Images& images, const ImageGradients& grads, bool features_move_geometry,
                        const AdamState& state, float* pose, float* means2d_norm, float* radii, int threads) {
  const BackwardPass pass = {features,   grads.features, channels, grads.features ? channels : 0,
                             background, images,         grads,    features_move_geometry};
  auto run = [&](auto with_channels) {
    constexpr int channels = decltype(with_channels)::value, WIDTH = channels ? 2 * LANES : LANES;
    begin_partials(view, WIDTH);
    for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
      TileList list(view, tile, scratch);
      backward_tile<true, channels>(view, list, pass, tile, scratch);
    });
    move_what_is_seen<WIDTH>(view, p, &state, pass.count, pose, threads, [&](const SplatGroup& s) {
      if (means2d_norm) store_rows(means2d_norm + s.visible, 1, s.lanes, &s.means2d_norm);
      if (radii) store_rows(radii + s.visible, 1, s.lanes, &s.radius);
    });
  };
  if (pass.count == 0) return run(Constant<0>{});
  if (pass.count <= 4) return run(Constant<4>{});
  if (pass.count <= 8) return run(Constant<8>{});
  run(Constant<16>{});
}

// Features alone, geometry as it is: loss = mean of (f - f*)^2 over the pixels whose target is not NaN. Returns the sum.
inline double step_features(View& view, const FeatureLoss& loss, const AdamState& state, float* steps, int threads) {
  const int64_t width = view.camera.width, tiles = static_cast<int64_t>(view.tiles_x) * view.tiles_y;
  const int channels = loss.channels;
  Buffer<double> errors;
  errors.reserve(tiles);
  begin_partials(view, LANES);
  for_each_tile(view, threads, [&](Scratch& scratch, int64_t tile) {
    TileList list(view, tile, scratch);
    prefetch_tile(loss.target, channels * sizeof(float), view, list);
    list.carry_features(state.features, channels, channels);
    const TileSums out(list, scratch, LANES);
    Records records(list, scratch);
    double total = 0.0;
    for_each_block(view, list, [&](const PixelBlock& block) {
      record(view, list, block, records, [](int, Vec) __attribute__((always_inline)) {});
      alignas(64) float rows[LANES][LANES];
      blend_features(list, records, rows);
      Vec squares = zero();
      for (int p = 0; p < LANES; ++p) {
        const int r = p / 4, c = p % 4;
        if (r >= block.height || c >= block.width) {
          store(rows[p], zero());
          continue;
        }
        const Vec target = load_first(loss.target + ((block.y + r) * width + block.x + c) * channels, channels);
        const Vec e = keep(ge(target, target), load(rows[p]) - target);
        squares = fma(e, e, squares);
        store(rows[p], set(loss.scale) * e);
      }
      total += sum(squares);
      out.mark(records);
      add_feature_sums(records, rows, out.sums, out.width);
    });
    out.flush(view, list, tile);
    errors[tile] = total;
  });
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
