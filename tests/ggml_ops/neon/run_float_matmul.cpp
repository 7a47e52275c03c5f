// Multiplies the matrices from stdin by the kernels of a target, for emulated processors.

#include "float_matmul.h"
#include "stdin_arrays.h"

struct Header {
    char target[16];
    std::int64_t format;  // 0: F32, 1: F16, 2: BF16
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t k;
};

int main() {
    using namespace float_matmul;
    using namespace stdin_arrays;
    Header h;
    while (read_header(h)) {
        const Target& target = simd::find_target(targets(), h.target);
        const auto format = static_cast<Format>(h.format);
        const std::size_t row = weight_bytes(format) * static_cast<std::size_t>(h.k);
        const std::vector<std::uint8_t> weights = read<std::uint8_t>(static_cast<std::int64_t>(row) * h.rows);
        const std::vector<float> x = read<float>(h.columns * h.k);
        const std::size_t step = target.column_bytes(format, h.k);
        const simd::AlignedBytes columns = simd::aligned_bytes(step * static_cast<std::size_t>(h.columns));
        const simd::AlignedBytes scratch = simd::aligned_bytes(target.scratch_bytes);
        std::vector<float> out(static_cast<std::size_t>(h.columns * h.rows));
        std::vector<float*> to;
        for (std::int64_t c = 0; c < h.columns; ++c) {
            to.push_back(out.data() + c * h.rows);
            target.convert(format, h.k, x.data() + c * h.k, 0, (h.k + convert_values - 1) / convert_values,
                           columns.get() + step * static_cast<std::size_t>(c));
        }
        target.multiply({format, h.k, weights.data(), row, h.rows, columns.get(), to.data(), h.columns, scratch.get()});
        write(out);
    }
}
