#pragma once
/* The instruction sets, the best first, and whether this machine has them. */
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* ONLY=amx: the one that a quick build is for, CLEARHEAD_ISAS=here in CMakeLists.txt. */
#if defined(ONLY)
#define EACH_OF(do_, isa) do_(isa)
#define EACH_ISA(do_) EACH_OF(do_, ONLY)
#elif defined(__x86_64__)
#define EACH_ISA(do_) do_(amx) do_(avx512bf16) do_(avx512) do_(avx2) do_(baseline)
#else
#define EACH_ISA(do_) do_(baseline)
#endif

namespace {

#if defined(__x86_64__)
inline bool has_avx512bf16() { return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw"); }
/* Tiles are there once the process may use their memory, which Linux grants when asked. */
inline bool has_amx() {
#if defined(__linux__)
    static const bool granted = [] {
        unsigned a, b, c, d;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
        constexpr unsigned bf16 = 1u << 22, tile = 1u << 24;
        constexpr int request_permission = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
        return (d & bf16) && (d & tile) && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    }();
    return granted && has_avx512bf16();
#else
    return false;
#endif
}
inline bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif
inline bool has_baseline() { return true; }

}  // namespace
