// Evaluates a model by llama.cpp's interface, for sanitizers: MODEL THREADS TYPE-OF-THE-KV-CACHE. Prompts of many
// lengths, single tokens, sequences side by side, states that are saved and restored.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "llama.h"

namespace {

void check(bool good, const char* what) {
    if (good) return;
    std::fprintf(stderr, "%s failed\n", what);
    std::exit(3);
}

struct Batch {
    explicit Batch(int size) : batch(llama_batch_init(size, 0, 1)) {}
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;
    ~Batch() { llama_batch_free(batch); }
    void add(llama_token token, llama_pos position, llama_seq_id sequence, bool output) {
        const int i = batch.n_tokens++;
        batch.token[i] = token, batch.pos[i] = position, batch.n_seq_id[i] = 1, batch.seq_id[i][0] = sequence;
        batch.logits[i] = output;
    }
    llama_batch batch;
};

void evaluate(llama_context* context, const std::vector<llama_token>& tokens, int from, int sequences) {
    Batch batch(static_cast<int>(tokens.size()) * sequences);
    for (int sequence = 0; sequence < sequences; ++sequence) {
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            batch.add(tokens[i], from + static_cast<int>(i), sequence, i + 1 == tokens.size());
        }
    }
    check(llama_decode(context, batch.batch) == 0, "llama_decode");
    llama_synchronize(context);
}

llama_token best(llama_context* context, int vocabulary) {
    const float* logits = llama_get_logits_ith(context, -1);
    check(logits != nullptr, "llama_get_logits_ith");
    int found = 0;
    for (int i = 1; i < vocabulary; ++i) found = logits[i] > logits[found] ? i : found;
    return found;
}

void run(llama_model* model, ggml_type cache, int threads) {
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (const int sequences : {1, 3}) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx = 1024, params.n_batch = params.n_ubatch = 256, params.n_seq_max = sequences;
        params.n_threads = params.n_threads_batch = threads, params.type_k = params.type_v = cache;
        params.kv_unified = true;
        llama_context* context = llama_init_from_model(model, params);
        check(context != nullptr, "llama_init_from_model");
        int position = 0;
        for (const int length : {1, 2, 3, 5, 8, 17, 33, 64}) {
            std::vector<llama_token> tokens;
            for (int i = 0; i < length; ++i) tokens.push_back((7 * (position + i) + 11) % vocabulary);
            evaluate(context, tokens, position, sequences);
            position += length;
        }
        const llama_token next = best(context, vocabulary);
        std::vector<std::uint8_t> state(llama_state_seq_get_size(context, 0));
        check(llama_state_seq_get_data(context, state.data(), state.size(), 0) == state.size(), "saving a state");
        for (int i = 0; i < 12; ++i) evaluate(context, {next}, position + i, 1);
        const llama_token first = best(context, vocabulary);
        llama_memory_seq_rm(llama_get_memory(context), 0, -1, -1);
        check(llama_state_seq_set_data(context, state.data(), state.size(), 0) == state.size(), "restoring a state");
        for (int i = 0; i < 12; ++i) evaluate(context, {next}, position + i, 1);
        check(best(context, vocabulary) == first, "the same token from a restored state");
        llama_free(context);
    }
}

ggml_type type_of(const std::string& name) {
    for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
        const char* its = ggml_type_name(static_cast<ggml_type>(type));
        if (its != nullptr && name == its) return static_cast<ggml_type>(type);
    }
    check(false, "a name of a type");
    return GGML_TYPE_COUNT;
}

}  // namespace

int main(int count, char** arguments) {
    check(count == 4, "usage: demo_model MODEL THREADS CACHE");
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    llama_model* model = llama_model_load_from_file(arguments[1], llama_model_default_params());
    check(model != nullptr, "llama_model_load_from_file");
    run(model, type_of(arguments[3]), std::atoi(arguments[2]));
    llama_model_free(model);
    llama_backend_free();
    std::puts("evaluated");
}
