/* Tasks over threads, by OpenMP: the same workers as PyTorch's, which would spin against a second pool.
 *
 * A task's result never depends on which thread takes it, nor on how many there are.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

extern "C" {
/* This thread's own memory, kept from call to call, at least so many bytes, aligned to 64; null if there is none. */
void* clearhead_scratch(size_t bytes);
/* Whether this process was forked off one that may have had workers: they are not here, and OpenMP would wait. */
int clearhead_forked(void);
}

namespace clearhead::ISA {

/* While it lives, this thread's results below the normal numbers become 0: a multiply-add with such a number takes
 * Intel's processors 250 times as long, and weights of far lower scores are such numbers. */
struct FlushTiny {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
    FlushTiny() { _mm_setcsr(before | 0x8000); }
    ~FlushTiny() { _mm_setcsr(before); }
#else
    FlushTiny() {}
    ~FlushTiny() {}
#endif
};

template <class Task>
inline void parallel(int threads, int64_t tasks, Task task) {
    if (threads > tasks) threads = (int)tasks;
    if (threads <= 1 || clearhead_forked()) {
        FlushTiny flush;
        for (int64_t t = 0; t < tasks; ++t) task(t);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        FlushTiny flush;
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tasks; ++t) task(t);
    }
}

/* Takes pieces off a thread's memory, one after the other. */
struct Arena {
    char* next;
    template <class T>
    T* take(int64_t n) {
        T* piece = reinterpret_cast<T*>(next);
        next += (n * (int64_t)sizeof(T) + 63) / 64 * 64;
        return piece;
    }
};

}  // namespace clearhead::ISA
