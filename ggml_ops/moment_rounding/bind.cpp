// Python bindings of rounding by second moments: threads take tiles of rows as they become free, without the GIL.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "../simd/aligned_bytes.h"
#include "../simd/find_target.h"
#include "../simd/threads.h"
#include "moment_rounding.h"

namespace nb = nanobind;

namespace {

using Input = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Levels = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Errors = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ranges = std::tuple<int, int, float, float, float, float, float>;  // the first fields of Format

void check(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

template <class Array>
bool has_shape(const Array& array, std::int64_t rows, std::int64_t columns) {
    return static_cast<std::int64_t>(array.shape(0)) == rows && static_cast<std::int64_t>(array.shape(1)) == columns;
}

moment_rounding::Format as_format(const Ranges& ranges, const std::optional<Levels>& levels) {
    const auto [block, group, lowest, highest, lowest_scale, highest_scale, highest_min] = ranges;
    check(group > 0 && block % group == 0 && moment_rounding::panel % block == 0, "blocks do not divide a panel");
    check(!levels.has_value() || levels->shape(0) == moment_rounding::most_levels, "levels are not sixteen");
    return {block,        group,         lowest,      highest,
            lowest_scale, highest_scale, highest_min, levels.has_value() ? levels->data() : nullptr};
}

void round_rows(const Input& x, const Output& values, const Output& d, const std::optional<Output>& dmin,
                const Output& scales, const std::optional<Output>& mins, const Input& moments,
                const std::optional<Input>& factor, const Ranges& ranges, const std::optional<Levels>& levels,
                const std::tuple<int, int, int>& effort, const Errors& before, const Errors& after, int threads,
                const std::string& target) {
    const moment_rounding::Target& kernels = simd::find_target(moment_rounding::targets(), target);
    const moment_rounding::Format format = as_format(ranges, levels);
    const auto rows = static_cast<std::int64_t>(x.shape(0));
    const auto columns = static_cast<std::int64_t>(x.shape(1));
    const std::int64_t blocks = columns / format.block;
    const std::int64_t groups = columns / format.group;
    check(columns % format.block == 0, "x does not have rows of whole blocks");
    check(has_shape(values, rows, columns), "values do not have the shape of x");
    check(has_shape(d, rows, blocks) && has_shape(scales, rows, groups), "d or scales do not have one for each block");
    const bool with_mins = format.highest_min > 0;
    check(!with_mins || (dmin.has_value() && mins.has_value()), "mins are missing");
    check(!with_mins || (has_shape(*dmin, rows, blocks) && has_shape(*mins, rows, groups)),
          "dmin or mins do not have one for each block");
    check(has_shape(moments, columns, columns), "moments are not as wide as x");
    check(!factor.has_value() || has_shape(*factor, columns, columns), "the factor is not as wide as x");
    check(static_cast<std::int64_t>(before.shape(0)) == rows && static_cast<std::int64_t>(after.shape(0)) == rows,
          "there is not one error for each row");
    const moment_rounding::Effort work_effort{std::get<0>(effort), std::get<1>(effort), std::get<2>(effort)};
    const moment_rounding::Rows all{x.data(),       values.data(),
                                    d.data(),       with_mins ? dmin->data() : nullptr,
                                    scales.data(),  with_mins ? mins->data() : nullptr,
                                    rows,           columns,
                                    moments.data(), factor.has_value() ? factor->data() : nullptr,
                                    before.data(),  after.data()};
    std::atomic<std::int64_t> next{0};
    // As few tiles at a time as give each thread some; the bits do not depend on it.
    const std::int64_t tiles = (rows + kernels.lanes - 1) / kernels.lanes;
    const std::int64_t together =
        std::clamp<std::int64_t>(tiles / std::max(threads, 1), 1, moment_rounding::most_tiles);
    const std::int64_t some = together * kernels.lanes;
    const auto work = [&] {
        const auto floats = static_cast<std::size_t>(kernels.scratch_floats(columns, format, together));
        const auto scratch = simd::aligned_bytes(floats * sizeof(float));
        for (std::int64_t first = next.fetch_add(some); first < rows; first = next.fetch_add(some)) {
            const moment_rounding::Rows job = moment_rounding::part_of(all, format, first, some);
            kernels.round_rows(job, format, work_effort, reinterpret_cast<float*>(scratch.get()));
        }
    };
    nb::gil_scoped_release unlocked;
    simd::run_in_threads(threads, (rows + some - 1) / some, work);
}

// Overwrites h, symmetric, with the M of H = M^T D M, mirrored; pivots are at least `floor`.
void factorize(const Output& h, float floor, int threads, const std::string& target) {
    constexpr std::int64_t panel = moment_rounding::factor_panel;
    constexpr std::int64_t tile = 256;
    const moment_rounding::Target& kernels = simd::find_target(moment_rounding::targets(), target);
    const auto n = static_cast<std::int64_t>(h.shape(0));
    check(has_shape(h, n, n), "the matrix is not square");
    float* data = h.data();
    nb::gil_scoped_release unlocked;
    for (std::int64_t last = n; last > 0; last = std::max<std::int64_t>(0, last - panel)) {
        const std::int64_t first = std::max<std::int64_t>(0, last - panel);
        std::atomic<std::int64_t> next{0};
        const auto work = [&] {
            for (std::int64_t from = next.fetch_add(tile); from < last; from = next.fetch_add(tile))
                kernels.update(data, n, first, last, from, std::min(from + tile, last));
        };
        if (last < n) simd::run_in_threads(n > 1024 ? threads : 1, (last + tile - 1) / tile, work);
        kernels.eliminate(data, n, first, last, floor);
    }
    for (std::int64_t i = 0; i < n; ++i) {
        const float root = data[i * n + i];
        for (std::int64_t j = 0; j < i; ++j) data[j * n + i] = data[i * n + j] = data[i * n + j] / root;
        data[i * n + i] = 1.F;
    }
}

}  // namespace

void bind_moment_rounding(nb::module_& m) {
    m.def("round_rows", &round_rows, nb::arg("x"), nb::arg("values"), nb::arg("d"), nb::arg("dmin").none(),
          nb::arg("scales"), nb::arg("mins").none(), nb::arg("moments"), nb::arg("factor").none(), nb::arg("ranges"),
          nb::arg("levels").none(), nb::arg("effort"), nb::arg("before"), nb::arg("after"), nb::arg("threads"),
          nb::arg("target"), "Rounds rows by second moments, in place; writes each row's error before and after.");
    m.def("factorize", &factorize, nb::arg("h"), nb::arg("floor"), nb::arg("threads"), nb::arg("target"),
          "Overwrites a symmetric matrix with the factor that error feedback needs.");
}
