#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace gs {

void* grow(void* old, size_t& capacity, size_t bytes) {
  if (bytes <= capacity) return old;
  // Large buffers lie on huge pages where the system has them: the kernels visit them in no order.
  constexpr size_t HUGE_PAGE = size_t{1} << 21;
  const size_t room = bytes + bytes / 4, unit = room >= HUGE_PAGE ? HUGE_PAGE : 64;
  const size_t wanted = (room + unit - 1) / unit * unit;
  void* fresh = std::aligned_alloc(unit, wanted);
  if (!fresh) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (unit == HUGE_PAGE) madvise(fresh, wanted, MADV_HUGEPAGE);  // only a hint
#endif
  std::free(old);
  capacity = wanted;
  return fresh;
}

void release(void* p) { std::free(p); }

}  // namespace gs
