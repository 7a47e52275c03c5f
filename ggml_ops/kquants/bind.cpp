// Python bindings of the quantizers: threads take chunks of rows as they become free, without the GIL.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../simd/find_target.h"
#include "../simd/threads.h"
#include "kquants.h"

namespace nb = nanobind;

namespace {

using Weights = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Importance = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Packed = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr std::int64_t chunk_weights = 1 << 16;  // 256 KiB of F32: stays in a core's L2 cache

kquants::Source find_source(const std::string& name, std::size_t bytes) {
    if (name == "f32" && bytes == 4) return kquants::Source::f32;
    if (name == "bf16" && bytes == 2) return kquants::Source::bf16;
    if (name == "f16" && bytes == 2) return kquants::Source::f16;
    throw std::invalid_argument("source " + name + " does not have elements of " + std::to_string(bytes) + " bytes");
}

// What the threads found: weights that are not finite, and whether all scales are in the range of FP16.
struct Findings {
    std::atomic<std::int64_t> non_finite{0};
    std::atomic<std::int64_t> first{-1};
    std::atomic<bool> fits{true};

    void add(kquants::NonFinite found, std::int64_t offset) {
        non_finite += found.count;
        const std::int64_t here = offset + found.first;
        std::int64_t before = first.load();
        while ((before < 0 || here < before) && !first.compare_exchange_weak(before, here)) {
        }
    }
};

std::tuple<std::int64_t, std::int64_t, bool> quantize(const Weights& x, const std::string& source,
                                                      const std::string& format,
                                                      const std::optional<Importance>& importance, const Packed& packed,
                                                      int threads, const std::string& target) {
    const kquants::Target& kernels = simd::find_target(kquants::targets(), target);
    const kquants::Format* blocks = kquants::find_format(kernels, format.c_str());
    if (blocks == nullptr) throw std::invalid_argument("format " + format + " has no native kernel");
    const kquants::Source type = find_source(source, x.itemsize());
    const auto rows = static_cast<std::int64_t>(x.shape(0));
    const auto columns = static_cast<std::int64_t>(x.shape(1));
    if (columns % blocks->block != 0) throw std::invalid_argument("x does not have rows of whole blocks");
    const std::int64_t width = columns / blocks->block * blocks->block_bytes;
    if (static_cast<std::int64_t>(packed.shape(0)) != rows || static_cast<std::int64_t>(packed.shape(1)) != width) {
        throw std::invalid_argument("packed does not have the shape of the quantized rows");
    }
    if (importance.has_value() && static_cast<std::int64_t>(importance->shape(0)) != columns) {
        throw std::invalid_argument("importance does not have one value for each column");
    }

    const auto* from = static_cast<const std::uint8_t*>(x.data());
    const std::int64_t row_bytes = columns * static_cast<std::int64_t>(x.itemsize());
    const std::int64_t step = std::max<std::int64_t>(1, chunk_weights / std::max<std::int64_t>(columns, 1));
    const float* weights = importance.has_value() ? importance->data() : nullptr;
    std::uint8_t* to = packed.data();
    std::atomic<std::int64_t> next{0};
    Findings findings;
    const auto work = [&] {
        for (std::int64_t first = next.fetch_add(step); first < rows; first = next.fetch_add(step)) {
            const std::int64_t count = std::min(step, rows - first);
            const kquants::Rows job{from + first * row_bytes, type, count, columns, weights, to + first * width};
            const kquants::NonFinite found = kernels.find_non_finite(job);
            if (found.count > 0) findings.add(found, first * columns);
            else if (!blocks->quantize(job)) findings.fits = false;
        }
    };
    {
        nb::gil_scoped_release unlocked;
        simd::run_in_threads(threads, (rows + step - 1) / step, work);
    }
    return {findings.non_finite.load(), findings.first.load(), findings.fits.load()};
}

std::tuple<std::int64_t, std::int64_t> find_non_finite(const Weights& x, const std::string& source) {
    const kquants::Target& kernels = simd::find_target(kquants::targets(), "");
    const kquants::Rows job{x.data(),
                            find_source(source, x.itemsize()),
                            static_cast<std::int64_t>(x.shape(0)),
                            static_cast<std::int64_t>(x.shape(1)),
                            nullptr,
                            nullptr};
    nb::gil_scoped_release unlocked;
    const kquants::NonFinite found = kernels.find_non_finite(job);
    return {found.count, found.first};
}

std::vector<std::string> target_names() { return simd::supported_names(kquants::targets()); }

std::vector<std::string> format_names() {
    std::vector<std::string> names;
    for (const kquants::Format& format : simd::find_target(kquants::targets(), "").formats)
        names.emplace_back(format.name);
    return names;
}

}  // namespace

void bind_kquants(nb::module_& m) {
    m.def("quantize", &quantize, nb::arg("x"), nb::arg("source"), nb::arg("format"), nb::arg("importance").none(),
          nb::arg("packed"), nb::arg("threads"), nb::arg("target"),
          "Quantizes rows of f32, bf16 or f16; returns the number of non-finite weights, the index of the first, and "
          "whether all scales are finite.");
    m.def("find_non_finite", &find_non_finite, nb::arg("x"), nb::arg("source"),
          "Returns the number of weights that are NaN or infinite, and the index of the first.");
    m.def("targets", &target_names, "Names the instruction sets that this processor runs, best first.");
    m.def("quantize_formats", &format_names, "Names the formats that have a native kernel.");
}
