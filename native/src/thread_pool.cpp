#include "thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace gs {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Job {
  Task task = nullptr;
  void* context = nullptr;
  int64_t count = 0;
  int helpers = 0;  // how many workers may join
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};

  void work(int thread) {
    try {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, i, thread);
    } catch (const std::bad_alloc&) {
      failed = true;
      next = count;
    }
  }
};

class ThreadPool {
 public:
  void run(int threads, int64_t count, Task task, void* context) {
    std::lock_guard one_at_a_time(run_mutex_);
    const int helpers = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
    job_.task = task;
    job_.context = context;
    job_.count = count;
    job_.next = 0;
    job_.failed = false;
    if (helpers > 0) {
      {
        std::lock_guard lock(mutex_);
        try {
          while (static_cast<int>(workers_.size()) < helpers)
            workers_.emplace_back([this, id = static_cast<int>(workers_.size())] { worker(id); });
        } catch (const std::system_error&) {
          // The system gives no more threads; those there are do the work.
        }
        job_.helpers = helpers;
        open_ = true;
        generation_.fetch_add(1);
      }
      wake_.notify_all();
    }
    job_.work(0);
    if (helpers > 0) {
      {
        std::lock_guard lock(mutex_);
        open_ = false;  // a worker that wakes up now finds nothing to join
      }
      for (int spins = 0; active_.load() != 0;)
        if (++spins < SPINS)
          pause();
        else
          std::this_thread::yield();
    }
    if (job_.failed) throw std::bad_alloc();
  }

 private:
  // About 20 microseconds: long enough for the next stage of a frame, too short to steal a core from somebody else.
  static constexpr int SPINS = 600;

  void worker(int id) {
    uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; spins < SPINS && generation_.load() == seen; ++spins) pause();
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      seen = generation_.load();
      if (!open_ || id >= job_.helpers) continue;
      active_.fetch_add(1);
      lock.unlock();
      job_.work(id + 1);
      active_.fetch_sub(1);
    }
  }

  std::mutex run_mutex_, mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0};
  bool open_ = false;
  Job job_;
};

// The pool is never destroyed: joining threads while the process exits can deadlock. A forked child has none of the
// parent's threads, so it starts a pool of its own.
ThreadPool& pool() {
  static std::mutex mutex;
  static ThreadPool* instance = nullptr;
  static pid_t owner = 0;
  std::lock_guard lock(mutex);
  if (!instance || owner != getpid()) {
    instance = new ThreadPool;
    owner = getpid();
  }
  return *instance;
}

}  // namespace

int effective_threads(int threads) {
  if (threads > 0) return threads < 256 ? threads : 256;
  cpu_set_t allowed;  // what taskset or a container leaves of the machine
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
  const unsigned hardware = std::thread::hardware_concurrency();
  return hardware > 0 ? static_cast<int>(hardware) : 1;
}

void run_parallel(int threads, int64_t count, Task task, void* context) {
  threads = effective_threads(threads);
  if (threads == 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i, 0);
    return;
  }
  pool().run(threads, count, task, context);
}

}  // namespace gs
