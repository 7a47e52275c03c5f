// Attention of some query rows over a KV cache, on plain pointers. No threads, no allocation and no exceptions here:
// callers split the work and provide scratch memory.
//
// For one query q: out = sum_j softmax_j(scale q . k_j + bias_j) v_j. The softmax is computed online, tile by tile:
// Milakov and Gimelshein, Online normalizer calculation for softmax, arXiv:1805.02867; Dao et al., FlashAttention,
// arXiv:2205.14135. The query heads that share a head of the cache are rows of one block, so that each key and value is
// read and unpacked once for all of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../simd/span.h"

namespace attention {

enum class Type { f32, f16, bf16, q8_0, q4_0 };

std::size_t row_bytes(Type type, std::int64_t size);

// The keys or the values of one head.
struct Cache {
    Type type;
    std::int64_t size;  // of a row; a multiple of 32 for q8_0 and q4_0
    const std::uint8_t* rows;
    std::int64_t step;  // bytes from one position to the next
};

// Query rows of the query heads of a group: row i of the block is head i % heads of token i / heads.
struct Queries {
    std::int64_t tokens, heads;
    const float* q;
    std::int64_t token_step, head_step;  // in floats
    // FP16: what is added to the scores, one value for each position; null: nothing.
    const std::uint16_t* mask;
    std::int64_t mask_token_step, mask_head_step;  // in values
    const float* slopes;                           // of the heads: factors of the mask; null: 1
    float scale;
    float softcap;  // score -> softcap tanh(score / softcap); 0: none

    std::int64_t rows() const { return tokens * heads; }
    const float* row(std::int64_t i) const { return q + i / heads * token_step + i % heads * head_step; }
};

// The online softmax of the rows of a block: the largest score, the sum of the exponentials, the sum of the values
// times their exponentials. state_floats() of them, at a multiple of 64 bytes.
using State = float*;

// Memory of the cache that is read next, by this job or others: small blocks ask for it meanwhile. In the order of
// addresses, since processors fetch what is read in that order three times as fast as half rows of it.
struct Ahead {
    const std::uint8_t* first;
    std::int64_t bytes;
};

struct Job {
    Queries queries;
    Cache k, v;
    std::int64_t first, last;  // positions of the cache: first is a multiple of position_granularity
    State state;
    bool resume;            // from the state of earlier positions; else it is written, whatever it was
    std::uint8_t* scratch;  // scratch_bytes(), at a multiple of 64 bytes
    Ahead next_k, next_v;
};

// Merges the states of some ranges of positions, in their order, and writes the result.
struct Finish {
    std::int64_t tokens, heads, size;
    const float* states;
    std::int64_t count, step;  // states, and floats from one to the next
    const float* sinks;        // of the heads: a score without a value; null: none
    float* out;
    std::int64_t token_step, head_step;  // in floats
};

inline constexpr std::int64_t max_rows = 512;  // of a block
inline constexpr std::int64_t position_granularity = 128;

struct Target {
    const char* name;
    bool (*supported)();
    std::size_t (*state_floats)(std::int64_t rows, std::int64_t value_size);
    std::size_t (*scratch_bytes)(std::int64_t rows, std::int64_t key_size, std::int64_t value_size);
    void (*attend)(const Job&);
    void (*finish)(const Finish&);
};

// The targets compiled in, best first; the last one runs anywhere.
simd::Span<const Target* const> targets();

}  // namespace attention
