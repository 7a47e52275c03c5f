// A whole attention operation: how it is split into blocks of rows and ranges of positions, for any number of threads.
// The split, and so every bit of the result, depends on the sizes and the number of threads alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"

namespace attention {

// Keys or values of all heads and streams; steps are bytes.
struct CacheTensor {
    Type type;
    std::int64_t size;
    const std::uint8_t* rows;
    std::int64_t position_step, head_step, stream_step;
};

// Queries or results; steps are floats.
template <class Float>
struct RowTensor {
    Float* rows;
    std::int64_t token_step, head_step, stream_step;
};

// FP16; steps are values, zero along what the mask does not depend on.
struct MaskTensor {
    const std::uint16_t* values;  // null: none
    std::int64_t token_step, head_step, stream_step;
};

struct Problem {
    std::int64_t streams, tokens, cache_heads, group, positions;  // query head h reads cache head h / group
    RowTensor<const float> q;
    CacheTensor k, v;
    MaskTensor mask;
    const float* slopes;  // of the query heads; null: 1
    const float* sinks;   // of the query heads; null: none
    float scale, softcap;
    RowTensor<float> out;
};

// Item: a block of rows. Unit: a part of the positions of an item.
struct Plan {
    std::int64_t heads, head_blocks;    // of a group
    std::int64_t tokens, token_blocks;  // of all tokens
    std::int64_t positions, parts;      // of all positions
    std::int64_t items, units;
    bool small;  // few rows: units ask for what they read next
    std::int64_t
        heads_together;  // items of a unit: the cache heads of small blocks, which are beside each other in memory
    std::size_t state_floats, scratch_bytes;
    std::size_t shared_bytes, thread_bytes;  // of the work memory: one of the first, then one of the second per thread

    Plan(const Target& target, const Problem& problem, int threads);
};

// `work` is at a multiple of 64 bytes. Units may be done in any order by any thread. With more than one part, all items
// are to be finished after all units are done; else the units finish themselves.
void attend_unit(const Target& target, const Problem& problem, const Plan& plan, std::int64_t unit, int thread,
                 std::uint8_t* work);
void finish_item(const Target& target, const Problem& problem, const Plan& plan, std::int64_t item, std::uint8_t* work);

}  // namespace attention
