/* The table of kernels that each instruction set hands out. */
#pragma once
#include "layer.h"

struct Kernels {
    void (*forward)(const Call&);
    void (*backward)(const Call&);
    void (*decode)(const Call&);
    void (*received)(const Call&);
    void (*map)(const Call&);
    void (*top)(const Call&);
    void (*toward)(const Call&);
    void (*held)(const Call&);
    void (*fewest)(const Call&);
    void (*linear)(const Layer&);
    void (*rms_norm)(const Layer&);
    void (*gate)(const Layer&);
    void (*turn)(const Turn&);
    void (*step)(const Step&);
    int64_t (*work)(const Call&); /* how many pairs the forward scores */
    int64_t tile;                 /* how many scores a thread holds at a time */
};
