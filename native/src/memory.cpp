#include "memory.h"

#include <cstdlib>
#include <new>

namespace gs {

void* grow(void* old, size_t& capacity, size_t bytes) {
  if (bytes <= capacity) return old;
  const size_t wanted = (bytes + bytes / 4 + 63) / 64 * 64;
  void* fresh = std::aligned_alloc(64, wanted);
  if (!fresh) throw std::bad_alloc();
  std::free(old);
  capacity = wanted;
  return fresh;
}

void release(void* p) { std::free(p); }

}  // namespace gs
