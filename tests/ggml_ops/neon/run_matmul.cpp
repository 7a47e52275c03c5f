// Multiplies quantized weights by columns read from stdin, for emulated processors: target, format, shape, weights, x.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "quantized_matmul.h"

struct Header {
    char target[16];
    std::int64_t format;
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t k;
};

static void read_exactly(void* to, std::size_t n) {
    if (std::fread(to, 1, n, stdin) != n) std::exit(3);
}

static std::uint8_t* aligned(std::vector<std::uint8_t>& bytes, std::size_t size) {
    bytes.resize(size + 64);
    const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
    return bytes.data() + (64 - address % 64) % 64;
}

int main() {
    using namespace quantized_matmul;
    Header h;
    while (std::fread(&h, sizeof(h), 1, stdin) == 1) {
        const Target* target = nullptr;
        for (const Target* one : targets()) {
            if (std::strcmp(one->name, h.target) == 0 && one->supported()) target = one;
        }
        if (target == nullptr) return 4;
        const auto format = static_cast<Format>(h.format);
        const std::size_t row = row_bytes(format, h.k), column = column_bytes(format, h.k);
        const auto rows = static_cast<std::size_t>(h.rows), columns = static_cast<std::size_t>(h.columns);
        const auto k = static_cast<std::size_t>(h.k);
        std::vector<std::uint8_t> weights(rows * row), quantized_bytes, scratch_bytes;
        std::vector<float> x(columns * k), out(columns * rows);
        read_exactly(weights.data(), weights.size());
        read_exactly(x.data(), x.size() * sizeof(float));
        std::uint8_t* const quantized = aligned(quantized_bytes, columns * column);
        std::uint8_t* const scratch = aligned(scratch_bytes, target->scratch_bytes);
        std::vector<const std::uint8_t*> from(columns);
        std::vector<float*> to(columns);
        for (std::size_t c = 0; c < columns; ++c) {
            from[c] = quantized + c * column;
            to[c] = out.data() + c * rows;
            target->quantize(format, h.k, x.data() + c * k, 0, column_blocks(h.k), quantized + c * column);
        }
        target->multiply({format, h.k, weights.data(), row, h.rows, from.data(), to.data(), h.columns, scratch});
        std::fwrite(out.data(), sizeof(float), out.size(), stdout);
    }
    return 0;
}
