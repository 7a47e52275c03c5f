// Attention of one stream by one target: reads the sizes, the cache as bytes and the queries from stdin, writes the
// result to stdout. For targets of other processors than this one's, by an emulator.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "problem.h"

namespace {

struct Header {
    char target[16];
    std::int64_t k_type, v_type, size, tokens, heads, cache_heads, positions, parts;
};

template <class T>
T* aligned(std::size_t count) {
    return static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
}

template <class T>
T* read(std::size_t count) {
    T* const values = aligned<T>(count);
    if (std::fread(values, sizeof(T), count, stdin) != count) std::exit(1);
    return values;
}

const attention::Target* find(const char* name) {
    for (const attention::Target* target : attention::targets()) {
        if (std::strcmp(target->name, name) == 0) return target;
    }
    std::exit(2);
}

}  // namespace

int main() {
    const Header header = *read<Header>(1);
    const attention::Target& target = *find(header.target);
    const auto type = [](std::int64_t n) { return static_cast<attention::Type>(n); };
    const auto cache = [&](std::int64_t n) {
        const auto bytes = static_cast<std::int64_t>(attention::row_bytes(type(n), header.size));
        const std::int64_t step = bytes * header.cache_heads;
        const auto count = static_cast<std::size_t>(step * header.positions);
        return attention::CacheTensor{type(n), header.size, read<std::uint8_t>(count), step, bytes, 0};
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
    const auto floats = static_cast<std::size_t>(header.tokens * step);
    problem.q = {read<float>(floats), step, header.size, 0};
    problem.mask = {read<std::uint16_t>(static_cast<std::size_t>(header.tokens * header.positions)), header.positions,
                    0, 0};
    float* const out = aligned<float>(floats);
    problem.out = {out, step, header.size, 0};
    problem.scale = 0.125F;

    const attention::Plan plan(target, problem, static_cast<int>(header.parts));
    auto* const work = aligned<std::uint8_t>(plan.shared_bytes + plan.thread_bytes);
    for (std::int64_t unit = 0; unit < plan.units; ++unit) attend_unit(target, problem, plan, unit, 0, work);
    for (std::int64_t item = 0; plan.parts > 1 && item < plan.items; ++item) {
        finish_item(target, problem, plan, item, work);
    }
    std::fwrite(out, sizeof(float), floats, stdout);
}
