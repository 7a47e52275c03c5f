// Runs the gated delta rule or the convolution on the inputs from stdin, for emulated processors.

#include <cmath>

#include "delta_net.h"
#include "stdin_arrays.h"

using namespace stdin_arrays;

struct Header {
    char target[16];
    std::int64_t kernel_size;  // of the convolution; 0 for the gated delta rule
    std::int64_t tokens;
    std::int64_t size;  // of the one head, or the channels
    std::int64_t gates;
    std::int64_t snapshots;
};

static void convolve(const delta_net::Target& target, const Header& h) {
    const std::vector<float> x = read(h.tokens * h.size);
    const std::vector<float> weight = read(h.size * h.kernel_size);
    std::vector<float> state = read(h.size * (h.kernel_size - 1));
    std::vector<float> out(x.size());
    delta_net::Convolution job = {};
    job.tokens = h.tokens;
    job.kernel_size = h.kernel_size;
    job.x = x.data();
    job.weight = weight.data();
    job.state = job.new_state = state.data();
    job.out = out.data();
    job.x_step = job.out_step = job.channels = h.size;
    target.causal_conv1d_silu(job);
    write(out);
    write(state);
}

static void recur(const delta_net::Target& chosen, const Header& h) {
    const delta_net::Target& target = delta_net::for_size(chosen, h.size);
    const std::vector<float> q = read(h.tokens * h.size);
    const std::vector<float> k = read(h.tokens * h.size);
    const std::vector<float> v = read(h.tokens * h.size);
    const std::vector<float> gate = read(h.tokens * h.gates);
    const std::vector<float> beta = read(h.tokens);
    std::vector<float> states = read(h.size * h.size);
    states.resize(states.size() * static_cast<std::size_t>(h.snapshots));
    std::vector<float> out(v.size());
    std::vector<float> scratch(target.scratch_floats(h.size));
    delta_net::Head head = {};
    head.tokens = h.tokens;
    head.size = head.rows = head.q_step = head.k_step = head.v_step = head.out_step = h.size;
    head.q = q.data();
    head.k = k.data();
    head.v = v.data();
    head.gate = gate.data();
    head.gate_step = h.gates;
    head.gate_per_column = h.gates > 1;
    head.beta = beta.data();
    head.beta_step = 1;
    head.out = out.data();
    head.scale = 1.F / std::sqrt(static_cast<float>(h.size));
    head.state = head.new_state = states.data();
    head.snapshots = h.snapshots;
    head.snapshot_step = h.size * h.size;
    head.scratch = scratch.data();
    target.gated_delta_rule(head);
    write(out);
    write(states);
}

int main() {
    Header h;
    while (read_header(h)) {
        const delta_net::Target& target = simd::find_target(delta_net::targets(), h.target);
        h.kernel_size > 0 ? convolve(target, h) : recur(target, h);
    }
}
