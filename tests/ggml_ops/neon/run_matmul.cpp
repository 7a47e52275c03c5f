// Multiplies quantized weights by columns read from stdin, for emulated processors: target, format, shape, weights, x.

#include "quantized_matmul.h"
#include "stdin_arrays.h"

struct Header {
    char target[16];
    std::int64_t format;
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t k;
};

int main() {
    using namespace quantized_matmul;
    using namespace stdin_arrays;
    Header h;
    while (read_header(h)) {
        const Target& target = simd::find_target(targets(), h.target);
        const auto format = static_cast<Format>(h.format);
        const std::size_t row = row_bytes(format, h.k), column = column_bytes(format, h.k);
        const auto columns = static_cast<std::size_t>(h.columns);
        const std::vector<std::uint8_t> weights = read<std::uint8_t>(h.rows * static_cast<std::int64_t>(row));
        const std::vector<float> x = read(h.columns * h.k);
        std::vector<float> out(columns * static_cast<std::size_t>(h.rows));
        const simd::AlignedBytes quantized = simd::aligned_bytes(columns * column);
        const simd::AlignedBytes scratch = simd::aligned_bytes(target.scratch_bytes);
        std::vector<const std::uint8_t*> from(columns);
        std::vector<float*> to(columns);
        for (std::size_t c = 0; c < columns; ++c) {
            const auto at = static_cast<std::int64_t>(c);
            from[c] = quantized.get() + c * column;
            to[c] = out.data() + at * h.rows;
            target.quantize(format, h.k, x.data() + at * h.k, 0, column_blocks(h.k), quantized.get() + c * column);
        }
        target.multiply({format, h.k, weights.data(), row, h.rows, from.data(), to.data(), h.columns, scratch.get()});
        write(out);
    }
}
