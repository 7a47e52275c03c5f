// Ask a model with the libraries of qwen35-engine and nothing else: for systems without a Python that could.
//
// ask_engine FOLDER-OF-THE-BACKENDS MODEL.gguf PROMPT TOKENS   prints the text that follows, greedily

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend.h"
#include "llama.h"

static void silent(enum ggml_log_level level, const char* text, void* data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int fail(const char* what) {
    fprintf(stderr, "error: %s\n", what);
    return 1;
}

static llama_token likeliest(const float* logits, int size) {
    llama_token best = 0;
    for (int i = 1; i < size; ++i) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

int main(int count, char** values) {
    if (count != 5) return fail("ask_engine FOLDER MODEL PROMPT TOKENS");
    llama_log_set(silent, NULL);
    ggml_backend_load_all_from_path(values[1]);
    struct llama_model* model = llama_model_load_from_file(values[2], llama_model_default_params());
    if (model == NULL) return fail("the model cannot be loaded");
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 512;
    params.n_threads = params.n_threads_batch = 2;
    struct llama_context* context = llama_init_from_model(model, params);
    if (context == NULL) return fail("no context");
    const struct llama_vocab* vocab = llama_model_get_vocab(model);
    llama_token tokens[512];
    int n = llama_tokenize(vocab, values[3], (int)strlen(values[3]), tokens, 512, false, true);
    if (n < 1) return fail("the prompt is too long, or empty");
    struct llama_batch batch = llama_batch_get_one(tokens, n);
    for (int left = atoi(values[4]); left > 0; --left) {
        if (llama_decode(context, batch) != 0) return fail("the model cannot be evaluated");
        static llama_token next;
        next = likeliest(llama_get_logits_ith(context, -1), llama_vocab_n_tokens(vocab));
        if (llama_vocab_is_eog(vocab, next)) break;
        char piece[256];
        const int length = llama_token_to_piece(vocab, next, piece, sizeof piece, 0, false);
        fwrite(piece, 1, length > 0 ? (size_t)length : 0, stdout);
        batch = llama_batch_get_one(&next, 1);
    }
    putchar('\n');
    printf("backends: %d\n", (int)ggml_backend_reg_count());
    llama_free(context);
    llama_model_free(model);
    return 0;
}
