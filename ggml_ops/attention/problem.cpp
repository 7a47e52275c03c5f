#include "problem.h"

#include <algorithm>

namespace attention {
namespace {

constexpr std::int64_t max_heads = 64;       // of a block
constexpr std::int64_t min_positions = 256;  // of a part
constexpr std::int64_t small_rows = 32;      // of a block, whose unit has all cache heads, this far at a time:
constexpr std::int64_t stride = position_granularity / 2;
// Of a block, where there are too few blocks for the threads. Unpacking the cache is a tenth of the work for this many.
constexpr std::int64_t enough_rows = 256;

std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }
std::size_t padded(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

// Where the rows of an item are.
struct Item {
    std::int64_t stream, cache_head, head, heads, token, tokens;

    Item(const Problem& problem, const Plan& plan, std::int64_t item) {
        // Neighbours share a head of the cache.
        const std::int64_t token_block = item % plan.token_blocks;
        item /= plan.token_blocks;
        const std::int64_t head_block = item % plan.head_blocks;
        item /= plan.head_blocks;
        cache_head = item % problem.cache_heads;
        stream = item / problem.cache_heads;
        head = cache_head * problem.group + head_block * plan.heads;
        heads = std::min(plan.heads, problem.group - head_block * plan.heads);
        token = token_block * plan.tokens;
        tokens = std::min(plan.tokens, problem.tokens - token);
    }

    template <class Float>
    Float* rows_of(const RowTensor<Float>& t) const {
        return t.rows + stream * t.stream_step + head * t.head_step + token * t.token_step;
    }
    Cache cache_of(const CacheTensor& t) const {
        return {t.type, t.size, t.rows + stream * t.stream_step + cache_head * t.head_step, t.position_step};
    }
};

Queries queries_of(const Problem& problem, const Item& item) {
    const MaskTensor& mask = problem.mask;
    Queries queries{};
    queries.tokens = item.tokens;
    queries.heads = item.heads;
    queries.q = item.rows_of(problem.q);
    queries.token_step = problem.q.token_step;
    queries.head_step = problem.q.head_step;
    if (mask.values != nullptr) {
        queries.mask =
            mask.values + item.stream * mask.stream_step + item.head * mask.head_step + item.token * mask.token_step;
    }
    queries.mask_token_step = mask.token_step;
    queries.mask_head_step = mask.head_step;
    if (problem.slopes != nullptr) queries.slopes = problem.slopes + item.head;
    queries.scale = problem.scale;
    queries.softcap = problem.softcap;
    return queries;
}

Finish finish_of(const Problem& problem, const Plan& plan, const Item& item, const float* states) {
    Finish finish{};
    finish.tokens = item.tokens;
    finish.heads = item.heads;
    finish.size = problem.v.size;
    finish.states = states;
    finish.count = plan.parts;
    finish.step = static_cast<std::int64_t>(plan.state_floats);
    if (problem.sinks != nullptr) finish.sinks = problem.sinks + item.head;
    finish.out = item.rows_of(problem.out);
    finish.token_step = problem.out.token_step;
    finish.head_step = problem.out.head_step;
    return finish;
}

// What one of the items of a unit asks for: its share of the next positions of all heads, if these are beside each
// other.
Ahead ahead_of(const CacheTensor& t, const Plan& plan, std::int64_t stream, std::int64_t i, std::int64_t from,
               std::int64_t last) {
    const auto bytes = static_cast<std::int64_t>(row_bytes(t.type, t.size));
    if (from >= last || t.position_step != bytes * plan.heads_together) return {};
    const std::int64_t all = std::min(stride, last - from) * t.position_step, share = all / plan.heads_together;
    return {t.rows + stream * t.stream_step + from * t.position_step + i * share, share};
}

float* shared_states(const Plan& plan, std::int64_t unit, std::uint8_t* work) {
    return reinterpret_cast<float*>(work) + unit * static_cast<std::int64_t>(plan.state_floats);
}

}  // namespace

Plan::Plan(const Target& target, const Problem& problem, int threads) {
    head_blocks = divide_up(problem.group, max_heads);
    heads = divide_up(problem.group, head_blocks);
    // Several units for each thread, so that one that is late does not keep the others waiting for long.
    const std::int64_t wanted = threads == 1 ? 1 : 4 * std::int64_t{threads};
    const std::int64_t planes = problem.streams * problem.cache_heads * head_blocks;
    const std::int64_t fewest = divide_up(problem.tokens, max_rows / heads);
    token_blocks = std::max(fewest, std::min(divide_up(wanted, planes), problem.tokens * heads / enough_rows));
    tokens = divide_up(problem.tokens, token_blocks);
    token_blocks = divide_up(problem.tokens, tokens);
    items = planes * token_blocks;
    small = token_blocks * head_blocks == 1 && tokens * heads <= small_rows;
    heads_together = small ? problem.cache_heads : 1;

    const std::int64_t most = std::max<std::int64_t>(1, problem.positions / min_positions);
    parts = std::min(divide_up(wanted, items / heads_together), most);
    positions = divide_up(divide_up(problem.positions, parts), position_granularity) * position_granularity;
    parts = divide_up(problem.positions, positions);
    units = items / heads_together * parts;

    const std::int64_t rows = tokens * heads;
    state_floats = padded(target.state_floats(rows, problem.v.size) * sizeof(float)) / sizeof(float);
    scratch_bytes = padded(target.scratch_bytes(rows, problem.k.size, problem.v.size));
    const std::size_t state_bytes = state_floats * sizeof(float);
    shared_bytes = parts > 1 ? static_cast<std::size_t>(items * parts) * state_bytes : 0;
    thread_bytes = scratch_bytes + (parts > 1 ? 0 : static_cast<std::size_t>(heads_together) * state_bytes);
}

void attend_unit(const Target& target, const Problem& problem, const Plan& plan, std::int64_t unit, int thread,
                 std::uint8_t* work) {
    const std::int64_t first_item = unit / plan.parts * plan.heads_together;
    const std::int64_t part = unit % plan.parts;
    const std::int64_t first = part * plan.positions;
    const std::int64_t last = std::min(first + plan.positions, problem.positions);
    std::uint8_t* const scratch = work + plan.shared_bytes + static_cast<std::size_t>(thread) * plan.thread_bytes;
    float* const own_states = reinterpret_cast<float*>(scratch + plan.scratch_bytes);
    const auto state_of = [&](std::int64_t i) {
        return plan.parts > 1 ? shared_states(plan, (first_item + i) * plan.parts + part, work)
                              : own_states + i * static_cast<std::int64_t>(plan.state_floats);
    };
    const std::int64_t step = plan.small ? stride : plan.positions;
    for (std::int64_t from = first; from < last; from += step) {
        for (std::int64_t i = 0; i < plan.heads_together; ++i) {
            const Item item(problem, plan, first_item + i);
            const auto next = [&](const CacheTensor& t) {
                return plan.small ? ahead_of(t, plan, item.stream, i, from + step, last) : Ahead{};
            };
            target.attend({queries_of(problem, item), item.cache_of(problem.k), item.cache_of(problem.v), from,
                           std::min(from + step, last), state_of(i), from > first, scratch, next(problem.k),
                           next(problem.v)});
        }
    }
    for (std::int64_t i = 0; plan.parts == 1 && i < plan.heads_together; ++i) {
        target.finish(finish_of(problem, plan, Item(problem, plan, first_item + i), state_of(i)));
    }
}

void finish_item(const Target& target, const Problem& problem, const Plan& plan, std::int64_t item,
                 std::uint8_t* work) {
    target.finish(finish_of(problem, plan, Item(problem, plan, item), shared_states(plan, item * plan.parts, work)));
}

}  // namespace attention
