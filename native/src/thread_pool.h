// One pool of threads for all kernels.
#pragma once

#include <cstdint>
#include <type_traits>

namespace gs {

using Task = void (*)(void* context, int64_t index, int thread);

// Calls task(context, i, thread) for i in [0, count), handing out indices one by one to at most `threads` threads
// (the caller is thread 0), and returns when all are done. threads <= 0: one per hardware thread. Calls from several
// threads are served one after the other. Rethrows std::bad_alloc when a task ran out of memory.
void run_parallel(int threads, int64_t count, Task task, void* context);

// The number of threads that run_parallel(threads, ...) uses at most.
int effective_threads(int threads);

template <class Function>
__attribute__((always_inline)) inline void parallel(int threads, int64_t count, Function&& function) {
  auto call = [](void* context, int64_t index, int thread) {
    (*static_cast<std::remove_reference_t<Function>*>(context))(index, thread);
  };
  run_parallel(threads, count, call, const_cast<void*>(static_cast<const void*>(&function)));
}

}  // namespace gs
