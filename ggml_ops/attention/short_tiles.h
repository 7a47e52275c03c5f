// The walk of small blocks over the cache in short tiles, and the memory of the next positions, which is asked for
// meanwhile.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../simd/vector.h"
#include "attention.h"
#include "cache_rows.h"
#include "masks.h"
#include "state.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

// The part of what is read next that one of `count` steps asks for.
inline Ahead part_of(const Ahead& ahead, std::int64_t step, std::int64_t count) {
    const std::int64_t bytes = round_up((ahead.bytes + count - 1) / count, 64);
    const std::int64_t from = std::min(ahead.bytes, step * bytes);
    return {ahead.first + from, std::min(bytes, ahead.bytes - from)};
}

// Inline: to GCC a function that only asks for memory has no effect.
[[gnu::always_inline]] inline void ask_for(const Ahead& ahead) {
    for (std::int64_t i = 0; i < ahead.bytes; i += 64) {
        prefetch_second_level(reinterpret_cast<const float*>(ahead.first + i));
    }
}

// Positions of the cache, what the rows see of them, and what to ask for meanwhile.
struct ShortTile {
    std::int64_t first, count;
    Seen seen[max_rows];
    Ahead next_k, next_v;
};

// Calls f(tile) for those of which some row sees a position.
template <class Function>
void for_short_tiles(const Job& job, const Function& f) {
    const std::int64_t tiles = (job.last - job.first + short_tile - 1) / short_tile;
    ShortTile tile;
    for (std::int64_t i = 0; i < tiles; ++i) {
        tile.first = job.first + i * short_tile;
        tile.count = std::min(short_tile, job.last - tile.first);
        if (!find_seen(job.queries, tile.first, tile.count, tile.seen)) continue;
        tile.next_k = part_of(job.next_k, i, tiles);
        tile.next_v = part_of(job.next_v, i, tiles);
        f(tile);
    }
}

}  // namespace
}  // namespace attention::SIMD_TARGET
