// Calls every kernel with sizes and contents from bytes, in blocks of memory of exactly the right size, for sanitizers
// and valgrind. LLVMFuzzerTestOneInput is libFuzzer's; without it, `main` takes random bytes: SECONDS [SEED].
//
// With a second thread every call is made by both at a time, on the same inputs, as callers split the work.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "attention/problem.h"
#include "delta_net/delta_net.h"
#include "float_matmul/float_matmul.h"
#include "kquants/kquants.h"
#include "moment_rounding/moment_rounding.h"
#include "quantized_matmul/quantized_matmul.h"

namespace {

// Bytes that decide, and zeros after their end.
class Input {
public:
    Input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

    std::int64_t below(std::int64_t n) { return n <= 1 ? 0 : (byte() + 256 * byte()) % n; }

    // A float32 of any bits now and then, else a value near 1.
    float number() {
        if (byte() % 64 == 0) {
            std::uint32_t bits = 0;
            for (int i = 0; i < 4; ++i) bits = bits << 8 | static_cast<std::uint32_t>(byte());
            float value;
            std::memcpy(&value, &bits, 4);
            return value;
        }
        return static_cast<float>(byte() - 128) / 64;
    }

    int byte() { return at_ < end_ ? *at_++ : 0; }

private:
    const std::uint8_t* at_;
    const std::uint8_t* end_;
};

template <class T>
class Block {
public:
    explicit Block(std::int64_t count, std::size_t alignment = alignof(T)) : count_(count) {
        const std::size_t bytes = sizeof(T) * static_cast<std::size_t>(count);
        // malloc, not new: a sanitizer's begins and ends exactly there. Aligned memory has a size that is a multiple.
        data_ = static_cast<T*>(alignment > 16
                                    ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)
                                    : std::malloc(bytes + (bytes == 0)));
        std::memset(static_cast<void*>(data_), 0, bytes);
    }
    Block(Block&& other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr; }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block() { std::free(data_); }
    T* get() const { return data_; }
    T& operator[](std::int64_t i) const { return data_[i]; }
    std::int64_t count() const { return count_; }

private:
    T* data_;
    std::int64_t count_;
};

Block<float> floats(Input& in, std::int64_t count) {
    Block<float> made(count);
    for (std::int64_t i = 0; i < count; ++i) made[i] = in.number();
    return made;
}

Block<std::uint8_t> bytes(Input& in, std::int64_t count) {
    Block<std::uint8_t> made(count);
    for (std::int64_t i = 0; i < count; ++i) made[i] = static_cast<std::uint8_t>(in.byte());
    return made;
}

bool two_threads = false;

// Calls it once, or by two threads at a time, each with its number.
template <class F>
void call(F&& function) {
    if (!two_threads) return function(0);
    std::thread other([&] { function(1); });
    function(0);
    other.join();
}

template <class T>
const T* chosen(simd::Span<const T* const> targets, Input& in) {
    const T* const target = targets.begin()[in.below(targets.end() - targets.begin())];
    return target->supported() ? target : nullptr;
}

void quantize(Input& in) {
    const kquants::Target* const target = chosen(kquants::targets(), in);
    if (target == nullptr) return;
    const kquants::Format& format = target->formats.begin()[in.below(target->formats.end() - target->formats.begin())];
    const std::int64_t rows = 1 + in.below(4), columns = format.block * (1 + in.below(5));
    const auto source = static_cast<kquants::Source>(in.below(3));
    const Block<float> wide = floats(in, rows * columns);
    const Block<std::uint8_t> narrow = bytes(in, rows * columns * 2);
    Block<float> importance = floats(in, columns);
    for (std::int64_t i = 0; i < columns; ++i) importance[i] = importance[i] > 0 ? importance[i] : 1;
    const bool weighted = in.below(2) != 0;
    call([&](int) {
        const Block<std::uint8_t> blocks(rows * (columns / format.block) * format.block_bytes);
        const void* const x = source == kquants::Source::f32 ? static_cast<const void*>(wide.get()) : narrow.get();
        const kquants::Rows job{x, source, rows, columns, weighted ? importance.get() : nullptr, blocks.get()};
        if (target->find_non_finite(job).count == 0) format.quantize(job);
    });
}

void multiply(Input& in) {
    using namespace quantized_matmul;
    const Target* const target = chosen(targets(), in);
    if (target == nullptr) return;
    const FormatRow& row =
        format_table[in.below(static_cast<std::int64_t>(sizeof format_table / sizeof format_table[0]))];
    const std::int64_t k = row.block * (1 + in.below(row.block == 32 ? 20 : 4)), rows = 1 + in.below(40);
    const std::int64_t columns = 1 + in.below(22);
    const std::size_t step = row_bytes(row.format, k), column = column_bytes(row.format, k);
    const Block<std::uint8_t> weights = bytes(in, rows * static_cast<std::int64_t>(step));
    const Block<float> x = floats(in, columns * k);
    std::vector<Block<std::uint8_t>> quantized;
    std::vector<const std::uint8_t*> from;
    for (std::int64_t c = 0; c < columns; ++c) {
        quantized.emplace_back(static_cast<std::int64_t>(column), 64);
        target->quantize(row.format, k, x.get() + c * k, 0, column_blocks(k), quantized.back().get());
        from.push_back(quantized.back().get());
    }
    call([&](int) {
        const Block<std::uint8_t> scratch(static_cast<std::int64_t>(target->scratch_bytes), 64);
        std::vector<Block<float>> out;
        std::vector<float*> to;
        for (std::int64_t c = 0; c < columns; ++c) to.push_back(out.emplace_back(rows).get());
        target->multiply({row.format, k, weights.get(), step, rows, from.data(), to.data(), columns, scratch.get()});
    });
}

void multiply_floats(Input& in) {
    using namespace float_matmul;
    const Target* const target = chosen(targets(), in);
    if (target == nullptr) return;
    const auto format = static_cast<Format>(in.below(3));
    const std::int64_t k = 1 + in.below(200), rows = 1 + in.below(40), columns = 1 + in.below(22);
    const std::size_t step = weight_bytes(format) * static_cast<std::size_t>(k),
                      column = target->column_bytes(format, k);
    const Block<std::uint8_t> weights = bytes(in, rows * static_cast<std::int64_t>(step));
    const Block<float> x = floats(in, columns * k);
    const Block<std::uint8_t> converted(columns * static_cast<std::int64_t>(column), 64);
    for (std::int64_t c = 0; c < columns; ++c) {
        target->convert(format, k, x.get() + c * k, 0, (k + convert_values - 1) / convert_values,
                        converted.get() + static_cast<std::int64_t>(column) * c);
    }
    const Block<float> bias = floats(in, rows), summand = floats(in, rows);
    const bool gelu = in.below(2) != 0;
    call([&](int) {
        const Block<std::uint8_t> scratch(static_cast<std::int64_t>(target->scratch_bytes), 64);
        std::vector<Block<float>> out;
        std::vector<float*> to;
        for (std::int64_t c = 0; c < columns; ++c) to.push_back(out.emplace_back(rows).get());
        target->multiply({format, k, weights.get(), step, rows, converted.get(), to.data(), columns, scratch.get()});
        target->finish({to[0], bias.get(), summand.get(), gelu, rows});
    });
}

void delta_rule(Input& in) {
    using namespace delta_net;
    const Target* target = chosen(targets(), in);
    if (target == nullptr) return;
    const std::int64_t tokens = 1 + in.below(70), size = 16 * (1 + in.below(8));
    target = &for_size(*target, size);
    const std::int64_t snapshots = 1 + in.below(3);
    const bool per_column = in.below(2) != 0;
    const std::int64_t gates = per_column ? size : 1;
    const Block<float> q = floats(in, tokens * size), k = floats(in, tokens * size), v = floats(in, tokens * size);
    const Block<float> gate = floats(in, tokens * gates), beta = floats(in, tokens), state = floats(in, size * size);
    call([&](int) {
        const Block<float> out(tokens * size), states(snapshots * size * size);
        const Block<float> scratch(static_cast<std::int64_t>(target->scratch_floats(size)), 64);
        target->gated_delta_rule({tokens,     size,        q.get(),    k.get(), v.get(),      gate.get(),
                                  beta.get(), out.get(),   size,       size,    size,         gates,
                                  1,          size,        per_column, 0.1f,    state.get(),  states.get(),
                                  snapshots,  size * size, 0,          size,    scratch.get()});
    });
    const std::int64_t channels = 1 + in.below(100), kernel = 2 + in.below(6);
    const Block<float> x = floats(in, tokens * channels), weight = floats(in, channels * kernel);
    const Block<float> before = floats(in, channels * (kernel - 1));
    call([&](int) {
        const Block<float> after(channels * (kernel - 1)), out(tokens * channels);
        target->causal_conv1d_silu({tokens, kernel, x.get(), weight.get(), before.get(), after.get(), out.get(),
                                    channels, channels, 0, channels});
    });
}

void attend(Input& in) {
    using namespace attention;
    const Target* const target = chosen(targets(), in);
    if (target == nullptr) return;
    const auto k_type = static_cast<Type>(in.below(5)), v_type = static_cast<Type>(in.below(5));
    const std::int64_t size = 32 * (1 + in.below(8)), tokens = 1 + in.below(40), positions = 1 + in.below(300);
    const std::int64_t cache_heads = 1 + in.below(3), group = 1 + in.below(4), heads = cache_heads * group;
    const auto cache = [&](Type type, Block<std::uint8_t>& rows) {
        const auto row = static_cast<std::int64_t>(row_bytes(type, size));
        rows.~Block();
        new (&rows) Block<std::uint8_t>(bytes(in, row * cache_heads * positions));
        return CacheTensor{type, size, rows.get(), row * cache_heads, row, 0};
    };
    Block<std::uint8_t> keys(0), values(0);
    const Block<float> q = floats(in, tokens * heads * size), sinks = floats(in, heads), slopes = floats(in, heads);
    const Block<std::uint16_t> mask(tokens * positions);
    for (std::int64_t i = 0; i < mask.count(); ++i) mask[i] = in.byte() % 4 == 0 ? 0xFC00 : 0;
    Problem problem{};
    problem.streams = 1, problem.tokens = tokens, problem.cache_heads = cache_heads, problem.group = group;
    problem.positions = positions;
    problem.q = {q.get(), heads * size, size, 0};
    problem.k = cache(k_type, keys), problem.v = cache(v_type, values);
    if (in.below(2)) problem.mask = {mask.get(), positions, 0, 0};
    if (in.below(2)) problem.sinks = sinks.get();
    if (in.below(2)) problem.slopes = slopes.get();
    problem.scale = 0.1f, problem.softcap = in.below(2) ? 30.0f : 0.0f;
    const Block<float> out(tokens * heads * size);
    problem.out = {out.get(), heads * size, size, 0};
    const int threads = two_threads ? 2 : 1;
    const Plan plan(*target, problem, threads);
    const Block<std::uint8_t> work(
        static_cast<std::int64_t>(plan.shared_bytes + static_cast<std::size_t>(threads) * plan.thread_bytes), 64);
    call([&](int thread) {
        for (std::int64_t unit = thread; unit < plan.units; unit += threads) {
            attend_unit(*target, problem, plan, unit, thread, work.get());
        }
    });
    for (std::int64_t item = 0; plan.parts > 1 && item < plan.items; ++item) {
        finish_item(*target, problem, plan, item, work.get());
    }
}

void round_rows(Input& in) {
    using namespace moment_rounding;
    const Target* const target = chosen(targets(), in);
    if (target == nullptr) return;
    const bool mins = in.below(2) != 0, scales = in.below(2) != 0, feedback = in.below(2) != 0;
    const int block = in.below(2) ? 256 : 32, group = block == 32 ? 32 : in.below(2) ? 16 : 32;
    const Format format{block,  group, -8, 7, scales ? -32.0f : 1.0f, scales ? 31.0f : 1.0f, mins ? 63.0f : 0.0f,
                        nullptr};
    const std::int64_t rows = 1 + in.below(target->lanes), columns = 256 * (1 + in.below(2));
    Block<float> moments = floats(in, columns * columns);
    for (std::int64_t i = 0; i < columns; ++i) {
        moments[i * columns + i] += 1;
        for (std::int64_t j = 0; j < i; ++j) moments[i * columns + j] = moments[j * columns + i];
    }
    const Block<float> factor(columns * columns), x = floats(in, rows * columns);
    for (std::int64_t i = 0; i < moments.count(); ++i) factor[i] = moments[i];
    target->eliminate(factor.get(), columns, 0, columns, 0.01f);
    const std::int64_t blocks = columns / block, groups = columns / group;
    call([&](int) {
        const Block<float> values(rows * columns), d(rows * blocks), dmin(rows * blocks);
        const Block<float> scale(rows * groups), min(rows * groups), before(rows), after(rows);
        for (std::int64_t i = 0; i < d.count(); ++i) d[i] = dmin[i] = 0.5f;
        for (std::int64_t i = 0; i < scale.count(); ++i) scale[i] = min[i] = 1;
        const Block<float> scratch(target->scratch_floats(columns, format, 1), 64);
        target->round_rows(
            {x.get(), values.get(), d.get(), mins ? dmin.get() : nullptr, scale.get(), mins ? min.get() : nullptr, rows,
             columns, moments.get(), feedback ? factor.get() : nullptr, before.get(), after.get()},
            format, {1, 1, 1}, scratch.get());
    });
}

constexpr void (*kernels[])(Input&) = {quantize, multiply, multiply_floats, delta_rule, attend, round_rows};
constexpr int count = sizeof kernels / sizeof kernels[0];

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input in(data, size);
    kernels[in.byte() % count](in);
    return 0;
}

#if !defined(LIBFUZZER)
int main(int given, char** arguments) {
    const double seconds = given > 1 ? std::atof(arguments[1]) : 1;
    std::mt19937 random(given > 2 ? static_cast<unsigned>(std::atoi(arguments[2])) : 1);
    two_threads = given > 3;
    std::vector<std::uint8_t> data;
    long number = 0;
    const auto begin = std::chrono::steady_clock::now();
    while (number < count ||
           std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds) {
        data.resize(random() % 16384 + 16);
        for (std::uint8_t& each : data) each = static_cast<std::uint8_t>(random());
        data[0] = static_cast<std::uint8_t>(number++ % count);
        LLVMFuzzerTestOneInput(data.data(), data.size());
    }
    std::printf("%ld inputs\n", number);
    return 0;
}
#endif
