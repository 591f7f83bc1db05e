/* All kernels, compiled once for each instruction set: CMake defines ISA and the compiler's flags. */
#include "backward.h"
#include "decode.h"
#include "fewest.h"
#include "forward.h"
#include "held.h"
#include "linear.h"
#include "map.h"
#include "received.h"
#include "rows.h"
#include "step.h"
#include "table.h"
#include "top.h"
#include "toward.h"

#define NAME_OF_TABLE(isa) clearhead_##isa
#define TABLE(isa) NAME_OF_TABLE(isa)

namespace here = clearhead::ISA;

extern "C" const Kernels TABLE(ISA) = {
    here::forward, here::backward, here::decode, here::received,       here::map,      here::top,
    here::toward,  here::held,     here::fewest, here::linear,         here::rms_norm, here::gate,
    here::turn,    here::step,     here::work,   here::KEYS * here::Q,
};
