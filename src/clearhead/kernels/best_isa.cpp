/* Prints the best instruction set of this machine: CMakeLists.txt runs it for a quick build. */
#include <stdio.h>

#include "isas.h"

int main() {
#define PRINT(isa) \
    if (has_##isa()) return puts(#isa), 0;
    EACH_ISA(PRINT)
    return 1;
}
