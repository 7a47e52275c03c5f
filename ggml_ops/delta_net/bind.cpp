// Python bindings of the gated delta rule and its convolution. gated_delta_rule.py and causal_conv1d.py check shapes.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../simd/find_target.h"
#include "../simd/threads.h"
#include "delta_net.h"

namespace nb = nanobind;

namespace {

template <int Dimensions>
using Input = nb::ndarray<const float, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
template <int Dimensions>
using Output = nb::ndarray<float, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;

// The number of threads that pays off: starting one takes tens of microseconds, and a core needs about a hundred for
// `enough` elements.
int worth(int most_threads, std::int64_t elements, std::int64_t enough) {
    return static_cast<int>(std::clamp<std::int64_t>(elements / enough, 1, std::max(most_threads, 1)));
}

// states: snapshots x heads x size x size, the newest first.
void gated_delta_rule(const Input<3>& q, const Input<3>& k, const Input<3>& v, const Input<3>& g, const Input<2>& beta,
                      const Input<3>& state, const Output<3>& out, const Output<4>& states, int most_threads,
                      const std::string& target) {
    const auto tokens = static_cast<std::int64_t>(v.shape(0));
    const auto heads = static_cast<std::int64_t>(v.shape(1));
    const auto size = static_cast<std::int64_t>(v.shape(2));
    const auto key_heads = static_cast<std::int64_t>(k.shape(1));
    const auto gates = static_cast<std::int64_t>(g.shape(2));
    const delta_net::Target& kernels = delta_net::for_size(simd::find_target(delta_net::targets(), target), size);

    const int threads = worth(most_threads, tokens * heads * size * size, 1 << 21);
    // Heads are split into groups of value rows until there is work for all threads.
    const std::int64_t groups = (size + delta_net::row_granularity - 1) / delta_net::row_granularity;
    const std::int64_t splits = std::clamp<std::int64_t>((2 * threads + heads - 1) / heads, 1, groups);
    const std::int64_t rows = (groups + splits - 1) / splits * delta_net::row_granularity;
    const std::int64_t items = heads * splits;
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
        const std::unique_ptr<float[]> scratch(new float[kernels.scratch_floats(size)]);  // uninitialized
        for (std::int64_t item = next++; item < items; item = next++) {
            const std::int64_t h = item / splits;
            const std::int64_t first_row = item % splits * rows;
            if (first_row >= size) continue;
            const std::int64_t kh = h % key_heads;
            delta_net::Head head{};
            head.tokens = tokens;
            head.size = size;
            head.q = q.data() + kh * size;
            head.k = k.data() + kh * size;
            head.v = v.data() + h * size;
            head.gate = g.data() + h * gates;
            head.beta = beta.data() + h;
            head.out = out.data() + h * size;
            head.q_step = head.k_step = key_heads * size;
            head.v_step = head.out_step = heads * size;
            head.gate_step = heads * gates;
            head.beta_step = heads;
            head.gate_per_column = gates > 1;
            head.scale = 1.F / std::sqrt(static_cast<float>(size));
            head.state = state.data() + h * size * size;
            head.new_state = states.data() + h * size * size;
            head.snapshots = static_cast<std::int64_t>(states.shape(0));
            head.snapshot_step = heads * size * size;
            head.first_row = first_row;
            head.rows = std::min(rows, size - first_row);
            head.scratch = scratch.get();
            kernels.gated_delta_rule(head);
        }
    };
    nb::gil_scoped_release unlocked;
    simd::run_in_threads(threads, items, work);
}

void causal_conv1d_silu(const Input<2>& x, const Input<2>& weight, const Input<2>& state, const Output<2>& out,
                        const Output<2>& new_state, int most_threads, const std::string& target) {
    const delta_net::Target& kernels = simd::find_target(delta_net::targets(), target);
    const auto channels = static_cast<std::int64_t>(x.shape(1));
    const int threads = worth(most_threads, static_cast<std::int64_t>(x.shape(0)) * channels, 1 << 18);
    constexpr std::int64_t step = 256;
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
        for (std::int64_t first = next.fetch_add(step); first < channels; first = next.fetch_add(step)) {
            kernels.causal_conv1d_silu({static_cast<std::int64_t>(x.shape(0)),
                                        static_cast<std::int64_t>(weight.shape(1)), x.data(), weight.data(),
                                        state.data(), new_state.data(), out.data(), channels, channels, first,
                                        std::min(step, channels - first)});
        }
    };
    nb::gil_scoped_release unlocked;
    simd::run_in_threads(threads, (channels + step - 1) / step, work);
}

}  // namespace

void bind_delta_net(nb::module_& m) {
    m.def("gated_delta_rule", &gated_delta_rule, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("g"),
          nb::arg("beta"), nb::arg("state"), nb::arg("out"), nb::arg("states"), nb::arg("threads"), nb::arg("target"));
    m.def("causal_conv1d_silu", &causal_conv1d_silu, nb::arg("x"), nb::arg("weight"), nb::arg("state"), nb::arg("out"),
          nb::arg("new_state"), nb::arg("threads"), nb::arg("target"));
}
