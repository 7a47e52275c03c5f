// The gated delta rule and the causal convolution before it, on plain pointers. No threads, no allocation and no
// exceptions here: callers split the work and provide scratch memory.
//
// For one value head with state S (value rows x key columns), per token:
//   S = exp(gate) S;  d = beta (v - S k);  S = S + d k^T;  out = scale S q
// Source: Yang, Kautz, Hatamizadeh, Gated Delta Networks, arXiv:2412.06464; layouts as in ggml_gated_delta_net.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../simd/span.h"

namespace delta_net {

// Some value rows of one head over the tokens of one sequence. Steps are floats from one token to the next.
struct Head {
    std::int64_t tokens;
    std::int64_t size;  // of q, k, v, out and of both sides of the state
    const float* q;
    const float* k;
    const float* v;
    const float* gate;  // log decay: one value, or `size` of them (one for each key column)
    const float* beta;
    float* out;
    std::int64_t q_step, k_step, v_step, gate_step, beta_step, out_step;
    bool gate_per_column;
    float scale;
    const float* state;            // before the first token: rows of `size` key columns
    float* new_state;              // after the last token; may be `state`
    std::int64_t snapshots;        // states to keep: 1, or more for those after the tokens before the last one
    std::int64_t snapshot_step;    // floats from a snapshot to the one that is a token older
    std::int64_t first_row, rows;  // value rows of this call; the first is a multiple of row_granularity
    float* scratch;                // scratch_floats(size) of them
    // Any alignment works, but with a state that is not aligned to 64 bytes one token takes 1.5 times as long.
};

// Channels of the convolution over the tokens of one sequence, followed by x / (1 + exp(-x)).
struct Convolution {
    std::int64_t tokens;
    std::int64_t kernel_size;
    const float* x;       // tokens x channels
    const float* weight;  // channels x kernel size, the last column for the token itself
    const float* state;   // channels x (kernel size - 1): the inputs before the first token, oldest first
    float* new_state;     // the same after the last token; may be `state`
    float* out;           // tokens x channels
    std::int64_t x_step, out_step;
    std::int64_t first_channel, channels;  // of this call
};

inline constexpr std::int64_t row_granularity = 32;

struct Target {
    const char* name;
    bool (*supported)();
    std::int64_t lanes;
    std::size_t (*scratch_floats)(std::int64_t size);
    void (*gated_delta_rule)(const Head&);
    void (*causal_conv1d_silu)(const Convolution&);
};

// The targets compiled in, best first; the last one runs anywhere, with heads of any size.
simd::Span<const Target* const> targets();

// The target to use for heads of a size: `target`, or the portable one if its vectors do not divide the size.
const Target& for_size(const Target& target, std::int64_t size);

}  // namespace delta_net
