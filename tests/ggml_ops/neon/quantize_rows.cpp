// Quantizes rows read from stdin, for emulated processors: target, format, source, shape, importance, values.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kquants.h"

struct Header {
    char target[16];
    char format[16];
    std::int32_t source;
    std::int32_t has_importance;
    std::int64_t rows;
    std::int64_t columns;
};

static void read_exactly(void* to, std::size_t n) {
    if (std::fread(to, 1, n, stdin) != n) std::exit(3);
}

int main() {
    Header h;
    while (std::fread(&h, sizeof(h), 1, stdin) == 1) {
        const kquants::Format* format = nullptr;
        for (const kquants::Target* target : kquants::targets()) {
            if (std::strcmp(target->name, h.target) == 0) format = kquants::find_format(*target, h.format);
        }
        if (format == nullptr) return 4;
        const auto n = static_cast<std::size_t>(h.rows * h.columns);
        std::vector<float> importance(h.has_importance ? static_cast<std::size_t>(h.columns) : 0);
        std::vector<std::uint8_t> x(n * (h.source == 0 ? 4 : 2));
        std::vector<std::uint8_t> blocks(n / static_cast<std::size_t>(format->block) *
                                         static_cast<std::size_t>(format->block_bytes));
        read_exactly(importance.data(), importance.size() * 4);
        read_exactly(x.data(), x.size());
        format->quantize({x.data(), static_cast<kquants::Source>(h.source), h.rows, h.columns,
                          h.has_importance ? importance.data() : nullptr, blocks.data()});
        std::fwrite(blocks.data(), 1, blocks.size(), stdout);
    }
    return 0;
}
