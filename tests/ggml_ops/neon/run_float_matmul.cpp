// Multiplies the matrices from stdin by the kernels of a target, for emulated processors.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "float_matmul.h"

struct Header {
    char target[16];
    std::int64_t format;  // 0: F32, 1: F16, 2: BF16
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t k;
};

template <class T>
static std::vector<T> read(std::int64_t count) {
    std::vector<T> values(static_cast<std::size_t>(count));
    if (std::fread(values.data(), sizeof(T), values.size(), stdin) != values.size()) std::exit(3);
    return values;
}

static std::uint8_t* aligned(std::size_t size) {
    return static_cast<std::uint8_t*>(::operator new(size, std::align_val_t{64}));
}

int main() {
    using namespace float_matmul;
    Header h;
    while (std::fread(&h, sizeof(h), 1, stdin) == 1) {
        const Target* target = nullptr;
        for (const Target* compiled : targets()) {
            if (std::strcmp(compiled->name, h.target) == 0) target = compiled;
        }
        if (target == nullptr) return 4;
        const auto format = static_cast<Format>(h.format);
        const std::size_t row = weight_bytes(format) * static_cast<std::size_t>(h.k);
        const std::vector<std::uint8_t> weights = read<std::uint8_t>(static_cast<std::int64_t>(row) * h.rows);
        const std::vector<float> x = read<float>(h.columns * h.k);
        const std::size_t step = target->column_bytes(format, h.k);
        std::uint8_t* const columns = aligned(step * static_cast<std::size_t>(h.columns));
        std::uint8_t* const scratch = aligned(target->scratch_bytes);
        std::vector<float> out(static_cast<std::size_t>(h.columns * h.rows));
        std::vector<float*> to;
        for (std::int64_t c = 0; c < h.columns; ++c) {
            to.push_back(out.data() + c * h.rows);
            target->convert(format, h.k, x.data() + c * h.k, 0, (h.k + convert_values - 1) / convert_values,
                            columns + step * static_cast<std::size_t>(c));
        }
        target->multiply({format, h.k, weights.data(), row, h.rows, columns, to.data(), h.columns, scratch});
        std::fwrite(out.data(), sizeof(float), out.size(), stdout);
        ::operator delete(columns, std::align_val_t{64});
        ::operator delete(scratch, std::align_val_t{64});
    }
}
