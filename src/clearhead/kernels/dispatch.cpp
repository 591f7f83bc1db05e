/* The library's face: which instruction sets there are, which is in use, and the kernels under plain C names. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isas.h"
#include "parallel.h"
#include "table.h"

namespace {

struct Isa {
    const char* name;
    const Kernels* kernels;
    bool (*here)();
};

#define DECLARE(isa) extern "C" const Kernels clearhead_##isa;
#define ROW(isa) {#isa, &clearhead_##isa, has_##isa},

}  // namespace

EACH_ISA(DECLARE)

namespace {

const Isa isas[] = {EACH_ISA(ROW)}; /* the best first */
const Isa* chosen = nullptr;

const Isa* best() {
    for (const Isa& isa : isas)
        if (isa.here()) return &isa;
    return nullptr;
}

const Isa& current() {
    if (!chosen) chosen = best();
    return *chosen;
}

struct Scratch {
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    char* memory = nullptr;
    size_t bytes = 0;
    ~Scratch() { free(memory); }
    void* at_least(size_t wanted) {
        if (bytes < wanted) {
            free(memory);
            bytes = (wanted + 4095) / 4096 * 4096;
            memory = static_cast<char*>(aligned_alloc(64, bytes));
            if (!memory) {
                fprintf(stderr, "clearhead: there is no memory for %zu bytes of a kernel's own.\n", bytes);
                abort();
            }
        }
        return memory;
    }
};
thread_local Scratch scratch, common;

bool forked = false;
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void* clearhead_scratch(size_t bytes) { return scratch.at_least(bytes); }
void* clearhead_common(size_t bytes) { return common.at_least(bytes); }

int clearhead_forked(void) { return forked; }

size_t clearhead_size_of_call(void) { return sizeof(Call); }
size_t clearhead_size_of_layer(void) { return sizeof(Layer); }
size_t clearhead_size_of_turn(void) { return sizeof(Turn); }
size_t clearhead_size_of_step(void) { return sizeof(Step); }

/* Name n of the instruction sets that this machine has, the best first; null after the last. */
const char* clearhead_isa_here(int n) {
    for (const Isa& isa : isas)
        if (isa.here() && n-- == 0) return isa.name;
    return nullptr;
}

/* The one in use; null where this machine has none of this build. */
const char* clearhead_isa(void) { return best() ? current().name : nullptr; }

/* Takes the instruction set of this name from here on; 0 if this machine does not have it. */
int clearhead_choose_isa(const char* name) {
    for (const Isa& isa : isas)
        if (!strcmp(isa.name, name) && isa.here()) {
            chosen = &isa;
            return 1;
        }
    return 0;
}

void clearhead_forward(const Call* call) { current().kernels->forward(*call); }
void clearhead_backward(const Call* call) { current().kernels->backward(*call); }
void clearhead_decode(const Call* call) { current().kernels->decode(*call); }
void clearhead_received(const Call* call) { current().kernels->received(*call); }
void clearhead_map(const Call* call) { current().kernels->map(*call); }
void clearhead_top(const Call* call) { current().kernels->top(*call); }
void clearhead_toward(const Call* call) { current().kernels->toward(*call); }
void clearhead_held(const Call* call) { current().kernels->held(*call); }
void clearhead_fewest(const Call* call) { current().kernels->fewest(*call); }
void clearhead_linear(const Layer* layer) { current().kernels->linear(*layer); }
void clearhead_rms_norm(const Layer* layer) { current().kernels->rms_norm(*layer); }
void clearhead_gate(const Layer* layer) { current().kernels->gate(*layer); }
void clearhead_turn(const Turn* turn) { current().kernels->turn(*turn); }
void clearhead_step(const Step* step) { current().kernels->step(*step); }
int64_t clearhead_work(const Call* call) { return current().kernels->work(*call); }
int64_t clearhead_tile(void) { return current().kernels->tile; }
}
