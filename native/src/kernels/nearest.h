// The nearest disc to each of many points: a tree of boxes with 16 children a node, walked depth first, the nearer child
// first. A disc is an ellipse; beyond its rim the point of the rim in the direction of its centre stands for the nearest
// one, which is never nearer than that.
#pragma once

#include "../thread_pool.h"
#include "../types.h"
#include "../simd.h"

namespace gs {
namespace GS_ISA {

constexpr int NEAREST_CHUNK = 64;  // points that a thread takes at a time
constexpr float FARTHEST = 1e29f;  // squared; the boxes and discs of empty places are farther away

struct PendingNode {
  float distance;  // squared, to the box
  int32_t level;   // -1: a leaf
  int64_t index;
};

struct NearestDisc {
  float distance;  // squared
  int64_t index;   // of the disc, leaf by leaf; -1: none
};

// Axis by axis, how far a point is outside of 16 boxes; the sum of the squares.
GS_INLINE Vec boxes_distance(const float* boxes, const Vec* point) {
  Vec sum = set(0.f);
  GS_UNROLL for (int k = 0; k < 3; ++k) {
    const Vec low = load(boxes + k * LANES), high = load(boxes + (3 + k) * LANES);
    const Vec outside = vmax(vmax(low - point[k], point[k] - high), set(0.f));
    sum = fma(outside, outside, sum);
  }
  return sum;
}

// From 16 discs to a point, (11, 16) as in DiscTree.
GS_INLINE Vec discs_distance(const float* disc, const Vec* point, Vec* away) {
  const auto row = [&](int k) { return load(disc + k * LANES); };
  Vec offset[3];
  GS_UNROLL for (int k = 0; k < 3; ++k) offset[k] = point[k] - row(k);
  Vec x = fma(offset[2], row(5), fma(offset[1], row(4), offset[0] * row(3)));
  Vec y = fma(offset[2], row(8), fma(offset[1], row(7), offset[0] * row(6)));
  const Vec along = x * row(9), across = y * row(10);
  const Vec shrink = set(1.f) / vsqrt(vmax(fma(along, along, across * across), set(1.f)));
  x = x * shrink, y = y * shrink;
  Vec sum = set(0.f);
  GS_UNROLL for (int k = 0; k < 3; ++k) {
    away[k] = fnma(y, row(6 + k), fnma(x, row(3 + k), offset[k]));
    sum = fma(away[k], away[k], sum);
  }
  return sum;
}

GS_INLINE void nearest_in_leaf(const DiscTree& tree, int64_t leaf, const Vec* point, NearestDisc& best) {
  Vec away[3];
  alignas(64) float distance[LANES];
  const Vec all = discs_distance(tree.leaves + leaf * 11 * LANES, point, away);
  store(distance, all);
  const int32_t* slots = tree.slots + leaf * LANES;
  for (uint32_t nearer = bits(gt(set(best.distance), all)); nearer; nearer &= nearer - 1) {
    const int i = __builtin_ctz(nearer);
    if (distance[i] < best.distance && !tree.hidden[slots[i]]) best = {distance[i], leaf * LANES + i};
  }
}

// `best` may hold a disc already. slack: (1 + share)^2, by which a box that is not visited may hold something nearer.
inline void walk_nearest(const DiscTree& tree, const Vec* point, float slack, NearestDisc& best) {
  PendingNode stack[MAX_TREE_LEVELS * LANES];
  int pending = 0;
  stack[pending++] = {0.f, tree.levels - 1, 0};
  while (pending) {
    const PendingNode now = stack[--pending];
    if (now.distance * slack >= best.distance) continue;
    if (now.level < 0) {
      nearest_in_leaf(tree, now.index, point, best);
      continue;
    }
    const int64_t node = tree.starts[now.level] + now.index;
    alignas(64) float distance[LANES];
    const Vec all = boxes_distance(tree.boxes + node * 6 * LANES, point);
    store(distance, all);
    const int32_t* uniform = tree.uniform + node * LANES;
    const int first = pending;
    for (uint32_t near = bits(gt(set(best.distance), all * set(slack))); near; near &= near - 1) {
      const int i = __builtin_ctz(near);
      if (uniform[i] >= 0 && tree.hidden[uniform[i]]) continue;
      int at = pending++;  // nearest last: it is taken first
      for (; at > first && stack[at - 1].distance < distance[i]; --at) stack[at] = stack[at - 1];
      stack[at] = {distance[i], now.level - 1, now.index * LANES + i};
    }
  }
}

inline void nearest(const DiscTree& tree, const float* points, int64_t count, float slack, int32_t* found, float* away,
                    int threads) {
  parallel(threads, (count + NEAREST_CHUNK - 1) / NEAREST_CHUNK, [&](int64_t chunk, int) {
    const int64_t end = (chunk + 1) * NEAREST_CHUNK < count ? (chunk + 1) * NEAREST_CHUNK : count;
    int64_t last = -1;  // points that follow each other tend to be near each other
    for (int64_t i = chunk * NEAREST_CHUNK; i < end; ++i) {
      const Vec point[3] = {set(points[3 * i]), set(points[3 * i + 1]), set(points[3 * i + 2])};
      NearestDisc best = {FARTHEST, -1};
      if (last >= 0) nearest_in_leaf(tree, last / LANES, point, best);
      walk_nearest(tree, point, slack, best);
      found[i] = static_cast<int32_t>(best.index);
      if (best.index < 0) continue;
      last = best.index;
      Vec all[3];
      discs_distance(tree.leaves + best.index / LANES * 11 * LANES, point, all);
      alignas(64) float lanes[LANES];
      for (int k = 0; k < 3; ++k) {
        store(lanes, all[k]);
        away[3 * i + k] = lanes[best.index % LANES];
      }
    }
  });
}

}  // namespace GS_ISA
}  // namespace gs
