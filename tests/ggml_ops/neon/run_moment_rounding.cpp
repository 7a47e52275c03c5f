// Makes the factor of moments and rounds rows by both, from stdin, for emulated processors. One thread.

#include <algorithm>

#include "moment_rounding.h"
#include "stdin_arrays.h"

struct Header {
    char target[16];
    std::int64_t rows;
    std::int64_t columns;
    std::int32_t block;
    std::int32_t group;
    float ranges[5];  // quants, scales, the highest min
    float floor;
};

int main() {
    using namespace moment_rounding;
    using namespace stdin_arrays;
    Header h;
    while (read_header(h)) {
        const Target& target = simd::find_target(targets(), h.target);
        const std::int64_t n = h.columns, blocks = n / h.block, groups = n / h.group;
        const std::vector<float> x = read(h.rows * n);
        std::vector<float> values = read(h.rows * n), d = read(h.rows * blocks), dmin = read(h.rows * blocks);
        std::vector<float> scales = read(h.rows * groups), mins = read(h.rows * groups);
        const std::vector<float> moments = read(n * n), factor = read(n * n);
        std::vector<float> made = read(n * n);
        for (std::int64_t last = n; last > 0; last = std::max<std::int64_t>(0, last - factor_panel)) {
            const std::int64_t first = std::max<std::int64_t>(0, last - factor_panel);
            if (last < n) target.update(made.data(), n, first, last, 0, last);
            target.eliminate(made.data(), n, first, last, h.floor);
        }
        const Format format{h.block, h.group, h.ranges[0], h.ranges[1], h.ranges[2], h.ranges[3], h.ranges[4], nullptr};
        const bool with_mins = format.highest_min > 0;
        std::vector<float> before(x.size() / n), after(before.size());
        const Rows all{x.data(),       values.data(),
                       d.data(),       with_mins ? dmin.data() : nullptr,
                       scales.data(),  with_mins ? mins.data() : nullptr,
                       h.rows,         n,
                       moments.data(), factor.data(),
                       before.data(),  after.data()};
        const std::int64_t some = most_tiles * target.lanes;
        const auto floats = static_cast<std::size_t>(target.scratch_floats(n, format, most_tiles));
        const simd::AlignedBytes scratch = simd::aligned_bytes(floats * sizeof(float));
        for (std::int64_t first = 0; first < h.rows; first += some)
            target.round_rows(part_of(all, format, first, some), format, {2, 2, 4},
                              reinterpret_cast<float*>(scratch.get()));
        for (const std::vector<float>* made_here : {&values, &d, &dmin, &scales, &mins, &before, &after, &made})
            write(*made_here);
    }
}
