// Votes of one keyframe. A row holds the few best-supported objects of a Gaussian: a vote adds to its object's entry, or,
// where it has none, wears down the weakest entry and takes its place when that is used up. The leader is the heaviest.
#include "api.h"
#include "thread_pool.h"

namespace {

constexpr int SLOTS = 4;
constexpr int64_t CHUNK = 4096;

void vote(int32_t* object, float* weight, int32_t* leader, int32_t voted, float w) {
  int entry = -1;
  for (int i = SLOTS - 1; i >= 0; --i)
    if (object[i] == voted) entry = i;
  if (entry >= 0) {
    weight[entry] += w;
  } else {
    entry = 0;
    for (int i = 1; i < SLOTS; ++i)
      if (weight[i] < weight[entry]) entry = i;
    const float left = weight[entry] - w;
    if (left < 0.f) object[entry] = voted;
    weight[entry] = left < 0.f ? w : left;
  }
  int best = 0;
  for (int i = 1; i < SLOTS; ++i)
    if (weight[i] > weight[best]) best = i;
  *leader = weight[best] > 0.f ? object[best] : 0;
}

}  // namespace

int32_t gs_add_votes(int32_t* objects, float* weights, int32_t* leaders, const int64_t* rows,
                                const int32_t* voted, const float* given, int64_t count, int32_t threads) {
  const int64_t chunks = (count + CHUNK - 1) / CHUNK;
  gs::parallel(threads, chunks, [&](int64_t chunk, int) {
    const int64_t end = chunk * CHUNK + CHUNK < count ? chunk * CHUNK + CHUNK : count;
    for (int64_t i = chunk * CHUNK; i < end; ++i) {
      const int64_t row = rows[i];
      vote(objects + row * SLOTS, weights + row * SLOTS, leaders + row, voted[i], given[i]);
    }
  });
  return 0;
}
