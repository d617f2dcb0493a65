// Front-to-back order of one tile by depth, only as far as somebody looks; equal depths stay in row order.
//
// Depths are positive, so their bit patterns rise with them. The keys are spread over buckets by their bit pattern (a
// logarithmic scale, so that one far splat does not spoil the near ones), and a bucket is sorted by the whole key (depth,
// then position) when the walk gets there. Pixels fill up long before the end of the list, so most is never sorted.
#pragma once

#include "../simd.h"
#include "../types.h"

namespace gs {
namespace GS_ISA {

GS_INLINE uint32_t depth_of(uint64_t key) { return static_cast<uint32_t>(key >> 32); }

// Radix sort over the bytes in which the keys differ.
inline void radix_sort(uint64_t* keys, int64_t n, Scratch& scratch) {
  uint64_t *from = keys, *to = scratch.sort_b.reserve(n), differ = 0;
  for (int64_t i = 1; i < n; ++i) differ |= keys[i] ^ keys[0];
  for (int shift = 0; shift < 64; shift += 8) {
    if (!(differ >> shift & 255)) continue;
    uint32_t place[256] = {}, sum = 0;
    for (int64_t i = 0; i < n; ++i) ++place[from[i] >> shift & 255];
    for (int k = 0; k < 256; ++k) {
      const uint32_t count = place[k];
      place[k] = sum;
      sum += count;
    }
    for (int64_t i = 0; i < n; ++i) to[place[from[i] >> shift & 255]++] = from[i];
    uint64_t* t = from;
    from = to;
    to = t;
  }
  if (from != keys) std::memcpy(keys, from, n * sizeof *keys);
}

GS_INLINE void insertion_sort(uint64_t* keys, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t key = keys[i];
    int64_t j = i;
    for (; j > 0 && keys[j - 1] > key; --j) keys[j] = keys[j - 1];
    keys[j] = key;
  }
}

// The keys of one tile. What has been sorted stays so for later passes over the same view.
class TileOrder {
 public:
  TileOrder(View& view, int64_t tile, Scratch& scratch) : scratch_(scratch) {
    const int64_t begin = view.tile_start[tile];
    keys_ = view.keys.data + begin;
    length_ = view.tile_start[tile + 1] - begin;
    sorted_ = &view.sorted[tile];
    if (*sorted_ < length_) spread();
  }

  int64_t length() const { return length_; }
  uint32_t position(int64_t i) const { return static_cast<uint32_t>(keys_[i]); }

  void sort_until(int64_t stop) {
    const uint32_t* bucket_end = scratch_.bucket_end.data;
    while (*sorted_ < stop) {
      const uint32_t begin = *sorted_;
      uint32_t end = begin_ + bucket_end[next_++];
      if (end - begin > MANY) {
        radix_sort(keys_ + begin, end - begin, scratch_);
      } else {
        // Buckets hold about one key each, so this is one pass over several of them, with few moves.
        while (end < stop && begin_ + bucket_end[next_] - end <= MANY) end = begin_ + bucket_end[next_++];
        insertion_sort(keys_ + begin, end - begin);
      }
      *sorted_ = end;
    }
  }

 private:
  static constexpr int64_t MANY = 48, MAX_BUCKETS = 32768;

  void spread() {
    begin_ = *sorted_;
    uint64_t* keys = keys_ + begin_;
    const int64_t n = length_ - begin_;
    int64_t count = 1;
    while (count < MAX_BUCKETS && count < n) count *= 2;
    uint32_t* end = scratch_.bucket_end.reserve(count);
    std::memset(end, 0, count * sizeof *end);
    uint32_t low = 0xffffffffu, high = 0;
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t z = depth_of(keys[i]);
      low = z < low ? z : low;
      high = z > high ? z : high;
    }
    const float scale = static_cast<float>(count) / (static_cast<float>(high - low) + 1.f);
    uint16_t* bucket = scratch_.bucket.reserve(n);
    for (int64_t i = 0; i < n; ++i) {
      const float level = static_cast<float>(static_cast<int32_t>(depth_of(keys[i]) - low)) * scale;
      bucket[i] = static_cast<uint16_t>(imin(static_cast<int32_t>(level), static_cast<int32_t>(count - 1)));
      ++end[bucket[i]];
    }
    uint32_t sum = 0;
    for (int64_t k = 0; k < count; ++k) {
      const uint32_t size = end[k];
      end[k] = sum;
      sum += size;
    }
    uint64_t* copy = scratch_.sort_a.reserve(n);
    std::memcpy(copy, keys, n * sizeof *keys);
    for (int64_t i = 0; i < n; ++i) keys[end[bucket[i]]++] = copy[i];
  }

  Scratch& scratch_;
  uint64_t* keys_;
  int64_t length_;
  uint32_t* sorted_;
  uint32_t begin_ = 0;  // of the buckets
  int64_t next_ = 0;    // bucket to sort
};

}  // namespace GS_ISA
}  // namespace gs
