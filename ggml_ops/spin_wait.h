// How long one step of a spinning wait takes on this processor.
#pragma once

// Nanoseconds of a load and a pause instruction, whose length differs tenfold between processors (about 10 cycles on
// older Intel, 100 on Zen 4, 140 on Intel since Skylake). The median of several runs, about 0.1 ms in all.
double pause_nanoseconds();
