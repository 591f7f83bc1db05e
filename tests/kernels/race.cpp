/* Looks for data races: forward and backward on four threads, under ThreadSanitizer (`make race`).
 *
 * ThreadSanitizer can't see how libgomp's threads wait for one another, and would call every one of its barriers a
 * race. So OpenMP's entry points that the kernels use are written here once more, on plain std::threads.
 */
#include <atomic>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "../../src/clearhead/kernels/call.h"
#include "../../src/clearhead/kernels/table.h"

extern "C" const Kernels clearhead_here; /* kernels.cpp, compiled with -DISA=here */

namespace {

/* The threads of one parallel region, which share out the turns of its one loop. */
struct Team {
    std::atomic<long> next{0}, end{0};
    std::barrier<> barrier;
};
thread_local Team* team;
thread_local std::vector<char> scratch, common;

void* at_least(std::vector<char>& memory, size_t bytes) {
    if (memory.size() < bytes + 64) memory.resize(bytes + 64);
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

}  // namespace

extern "C" {

void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned) {
    Team here{.barrier = std::barrier<>(threads)};
    std::vector<std::thread> others;
    auto run = [&] {
        team = &here;
        work(data);
    };
    for (unsigned n = 1; n < threads; ++n) others.emplace_back(run);
    run();
    for (std::thread& other : others) other.join();
}

/* Every loop of the kernels runs from 0 in steps of 1, a turn at a time. */
bool GOMP_loop_nonmonotonic_dynamic_next(long* start, long* end) {
    *start = team->next.fetch_add(1, std::memory_order_relaxed);
    *end = *start + 1;
    return *end <= team->end.load(std::memory_order_relaxed);
}
bool GOMP_loop_nonmonotonic_dynamic_start(long first, long end, long step, long chunk, long* start, long* stop) {
    if (first != 0 || step != 1 || chunk != 1) abort();
    team->end.store(end, std::memory_order_relaxed);
    return GOMP_loop_nonmonotonic_dynamic_next(start, stop);
}
void GOMP_loop_end() { team->barrier.arrive_and_wait(); }
void GOMP_loop_end_nowait() {}

void* clearhead_scratch(size_t bytes) { return at_least(scratch, bytes); }
void* clearhead_common(size_t bytes) { return at_least(common, bytes); }
int clearhead_forked(void) { return 0; }
}

namespace {

std::mt19937 generator(0);

std::vector<float> normal(int64_t n) {
    std::normal_distribution<float> draw;
    std::vector<float> x(n);
    for (float& y : x) y = draw(generator);
    return x;
}

Tensor strided(std::vector<float>& x, int64_t heads, int64_t rows, int64_t width) {
    return {x.data(), heads * rows * width, rows * width, width};
}

/* One call, causal or full, forward with its statistics and backward to all that has a gradient; what it made. */
std::vector<float> made(int64_t H, int64_t K, int64_t Tq, int64_t Tk, bool causal, float dropout, int threads) {
    constexpr int64_t B = 2, D = 16;
    generator.seed(1);
    auto q = normal(B * H * Tq * D), k = normal(B * K * Tk * D), v = normal(B * K * Tk * D),
         dout = normal(B * H * Tq * D);
    auto table = normal(H * (Tq + Tk - 1)), dlse = normal(B * H * Tq), sinks = normal(H);
    std::vector<float> out(q.size()), dq(q.size()), dk(k.size()), dv(v.size()), dtable(table.size()), dsinks(H);
    std::vector<float> lse(B * H * Tq), top(lse), sum(lse), entropy(lse), peak(lse), distance(lse), max_score(lse);
    std::vector<int32_t> at(lse.size()), start(Tq), stop(Tq);
    for (int64_t i = 0; i < Tq; ++i) stop[i] = causal ? (i + Tk - Tq < 0 ? 0 : i + Tk - Tq + 1) : Tk;
    Call c{};
    c.B = B, c.H = H, c.K = K, c.Tq = Tq, c.Tk = Tk, c.D = D, c.Dv = D;
    c.threads = threads, c.scale = 0.25f, c.past = Tk - Tq, c.dropout = dropout, c.seed = 7;
    c.q = strided(q, H, Tq, D), c.k = strided(k, K, Tk, D), c.v = strided(v, K, Tk, D), c.out = strided(out, H, Tq, D);
    c.dq = strided(dq, H, Tq, D), c.dk = strided(dk, K, Tk, D), c.dv = strided(dv, K, Tk, D);
    c.dout = strided(dout, H, Tq, D), c.dlse = dlse.data(), c.sinks = sinks.data(), c.dsinks = dsinks.data();
    c.runs = {start.data(), stop.data(), 0, 0, 1};
    c.bias.table = table.data(), c.bias.head = Tq + Tk - 1, c.dtable = dtable.data();
    c.lse = lse.data(), c.top = top.data(), c.sum = sum.data();
    c.probe = {entropy.data(), peak.data(), distance.data(), max_score.data(), at.data()};
    clearhead_here.forward(c);
    clearhead_here.backward(c);
    std::vector<float> all;
    for (auto* x : {&out, &lse, &entropy, &peak, &distance, &max_score, &dq, &dk, &dv, &dtable, &dsinks})
        all.insert(all.end(), x->begin(), x->end());
    return all;
}

}  // namespace

int main() {
    struct {
        int64_t H, K, Tq, Tk;
    } shapes[] = {{4, 2, 150, 200}, {1, 1, 300, 300}, {8, 2, 1, 900}, {4, 4, 70, 70}};
    for (auto [H, K, Tq, Tk] : shapes)
        for (bool causal : {false, true})
            for (float dropout : {0.0f, 0.3f})
                if (made(H, K, Tq, Tk, causal, dropout, 4) != made(H, K, Tq, Tk, causal, dropout, 1)) {
                    printf("H %ld, K %ld, Tq %ld, Tk %ld: four threads make other numbers than one.\n", H, K, Tq, Tk);
                    return 1;
                }
    printf("No race in forward and backward on four threads, and the numbers are those of one.\n");
}
