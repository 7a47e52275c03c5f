// Quantizes rows read from stdin, for emulated processors: target, format, source, shape, importance, values.

#include "kquants.h"
#include "stdin_arrays.h"

struct Header {
    char target[16];
    char format[16];
    std::int32_t source;
    std::int32_t has_importance;
    std::int64_t rows;
    std::int64_t columns;
};

int main() {
    using namespace stdin_arrays;
    Header h;
    while (read_header(h)) {
        const kquants::Target& target = simd::find_target(kquants::targets(), h.target);
        const kquants::Format* const format = kquants::find_format(target, h.format);
        if (format == nullptr) return 4;
        const std::int64_t n = h.rows * h.columns;
        const std::vector<float> importance = read(h.has_importance ? h.columns : 0);
        const std::vector<std::uint8_t> x = read<std::uint8_t>(n * (h.source == 0 ? 4 : 2));
        std::vector<std::uint8_t> blocks(static_cast<std::size_t>(n / format->block * format->block_bytes));
        format->quantize({x.data(), static_cast<kquants::Source>(h.source), h.rows, h.columns,
                          h.has_importance ? importance.data() : nullptr, blocks.data()});
        write(blocks);
    }
}
