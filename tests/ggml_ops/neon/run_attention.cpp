// Attention of one stream by one target: reads the sizes, the cache as bytes and the queries from stdin, writes the
// result to stdout. For targets of other processors than this one's, by an emulator.

#include "problem.h"
#include "stdin_arrays.h"

struct Header {
    char target[16];
    std::int64_t k_type, v_type, size, tokens, heads, cache_heads, positions, parts;
};

int main() {
    using namespace stdin_arrays;
    Header header;
    if (!read_header(header)) return 3;
    const attention::Target& target = simd::find_target(attention::targets(), header.target);
    std::vector<simd::AlignedBytes> held;
    const auto type = [](std::int64_t n) { return static_cast<attention::Type>(n); };
    const auto cache = [&](std::int64_t n) {
        const auto bytes = static_cast<std::int64_t>(attention::row_bytes(type(n), header.size));
        const std::int64_t step = bytes * header.cache_heads;
        const auto count = static_cast<std::size_t>(step * header.positions);
        held.push_back(read_aligned(count));
        return attention::CacheTensor{type(n), header.size, held.back().get(), step, bytes, 0};
    };
    attention::Problem problem{};
    problem.streams = 1;
    problem.tokens = header.tokens;
    problem.cache_heads = header.cache_heads;
    problem.group = header.heads / header.cache_heads;
    problem.positions = header.positions;
    problem.k = cache(header.k_type);
    problem.v = cache(header.v_type);
    const std::int64_t step = header.heads * header.size;
    std::vector<float> q = read(header.tokens * step), out(q.size());
    const std::vector<std::uint16_t> mask = read<std::uint16_t>(header.tokens * header.positions);
    problem.q = {q.data(), step, header.size, 0};
    problem.mask = {mask.data(), header.positions, 0, 0};
    problem.out = {out.data(), step, header.size, 0};
    problem.scale = 0.125F;

    const attention::Plan plan(target, problem, static_cast<int>(header.parts));
    const simd::AlignedBytes work = simd::aligned_bytes(plan.shared_bytes + plan.thread_bytes);
    for (std::int64_t unit = 0; unit < plan.units; ++unit) attend_unit(target, problem, plan, unit, 0, work.get());
    for (std::int64_t item = 0; plan.parts > 1 && item < plan.items; ++item) {
        finish_item(target, problem, plan, item, work.get());
    }
    write(out);
}
