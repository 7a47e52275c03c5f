/* Preloaded: of the threads of a process, main included, QWEN35_THREADS may run at a time; no other starts. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct call {
    void *(*function)(void *);
    void *argument;
};

static atomic_int running = 1;

static void ended(void *unused) {
    (void)unused;
    atomic_fetch_sub(&running, 1);
}

static void *run(void *given) {
    struct call call = *(struct call *)given;
    void *result;
    free(given);
    pthread_cleanup_push(ended, NULL); /* also where a thread ends by pthread_exit */
    result = call.function(call.argument);
    pthread_cleanup_pop(1);
    return result;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument) {
    static int (*original)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    const char *most = getenv("QWEN35_THREADS");
    struct call *call;
    int error;
    if (!original) {
        original = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
    }
    if (atomic_fetch_add(&running, 1) >= atoi(most)) {
        atomic_fetch_sub(&running, 1);
        return EAGAIN;
    }
    call = malloc(sizeof *call);
    call->function = function;
    call->argument = argument;
    error = original(thread, attributes, run, call);
    if (error) {
        free(call);
        atomic_fetch_sub(&running, 1);
    }
    return error;
}
