// How ggml's threads wait for each other at a barrier, on Linux: they spin while that is short, and sleep when the
// machine is busy.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Returns when *word is no longer `old`.
void ggml_wait_while(const int* word, int old);

// Wakes the threads that wait for *word. Call it after the change, which must be sequentially consistent.
void ggml_wake_waiting(const int* word);

#ifdef __cplusplus
}
#endif
