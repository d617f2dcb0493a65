// Memory that is kept between frames: growing is rare, nothing is freed while it may be needed again.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gs {

// Returns 64-byte aligned memory of at least `bytes`, keeping `old` when it is large enough (contents are not kept when
// it grows). Throws std::bad_alloc. Not inline, so that no instruction set leaks into shared code.
void* grow(void* old, size_t& capacity, size_t bytes);
void release(void* p);

template <class T>
struct Buffer {
  T* data = nullptr;
  size_t capacity_bytes = 0;

  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  __attribute__((always_inline)) ~Buffer() { release(data); }

  // At least `count` elements and 64 bytes to spare behind them; old contents are lost when it grows.
  __attribute__((always_inline)) T* reserve(size_t count) {
    data = static_cast<T*>(grow(data, capacity_bytes, count * sizeof(T) + 64));
    return data;
  }
  void clear() {
    release(data);
    data = nullptr;
    capacity_bytes = 0;
  }
  __attribute__((always_inline)) T& operator[](size_t i) const { return data[i]; }
};

}  // namespace gs
