// Preloaded: lets the N-th operation that changes files below a folder fail, as a full or a broken disk does.
//
// arm(path, n, error, lasting): the n-th fails with this errno; a write before it, of half of its bytes, succeeds if
// the error is lasting, and then all later ones fail. reached() returns how many there were since.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static atomic_long count;
static long wanted, failure;
static int lasts;

void arm(const char* path, long n, int error, int lasting) {
    snprintf(folder, sizeof folder, "%s", path);
    atomic_store(&count, 0);
    wanted = n, failure = error, lasts = lasting;
}

long reached(void) { return atomic_load(&count); }

static int inside(const char* path) { return folder[0] != 0 && strncmp(path, folder, strlen(folder)) == 0; }

static int inside_fd(int fd) {
    char name[64], path[PATH_MAX];
    if (folder[0] == 0) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

// Whether this operation fails; `errno` is set then.
static int fails(void) {
    const long number = atomic_fetch_add(&count, 1) + 1;
    if (wanted == 0 || number < wanted || (number > wanted && !lasts)) return 0;
    errno = (int)failure;
    return 1;
}

#define REAL(name, type) \
    static type real;    \
    if (!real) real = (type)dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void* data, size_t size) {
    typedef ssize_t (*Type)(int, const void*, size_t);
    REAL("write", Type);
    if (inside_fd(fd)) {
        const long number = atomic_load(&count) + 1;
        if (lasts && number == wanted && size > 1) {
            atomic_fetch_add(&count, 1);
            return real(fd, data, size / 2);
        }
        if (fails()) return -1;
    }
    return real(fd, data, size);
}

ssize_t pwrite64(int fd, const void* data, size_t size, off_t at) {
    typedef ssize_t (*Type)(int, const void*, size_t, off_t);
    REAL("pwrite64", Type);
    return inside_fd(fd) && fails() ? -1 : real(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec* parts, int n) {
    typedef ssize_t (*Type)(int, const struct iovec*, int);
    REAL("writev", Type);
    return inside_fd(fd) && fails() ? -1 : real(fd, parts, n);
}

int fsync(int fd) {
    typedef int (*Type)(int);
    REAL("fsync", Type);
    return inside_fd(fd) && fails() ? -1 : real(fd);
}

int ftruncate64(int fd, off_t size) {
    typedef int (*Type)(int, off_t);
    REAL("ftruncate64", Type);
    return inside_fd(fd) && fails() ? -1 : real(fd, size);
}

// Returns what others leave in errno.
int posix_fallocate64(int fd, off64_t at, off64_t size) {
    typedef int (*Type)(int, off64_t, off64_t);
    REAL("posix_fallocate64", Type);
    return inside_fd(fd) && fails() ? errno : real(fd, at, size);
}

ssize_t sendfile64(int to, int from, off_t* at, size_t size) {
    typedef ssize_t (*Type)(int, int, off_t*, size_t);
    REAL("sendfile64", Type);
    return inside_fd(to) && fails() ? -1 : real(to, from, at, size);
}

ssize_t copy_file_range(int from, off64_t* a, int to, off64_t* b, size_t size, unsigned flags) {
    typedef ssize_t (*Type)(int, off64_t*, int, off64_t*, size_t, unsigned);
    REAL("copy_file_range", Type);
    return inside_fd(to) && fails() ? -1 : real(from, a, to, b, size, flags);
}

int open64(const char* path, int flags, ...) {
    typedef int (*Type)(const char*, int, ...);
    REAL("open64", Type);
    va_list rest;
    va_start(rest, flags);
    const int mode = va_arg(rest, int);
    va_end(rest);
    return (flags & O_CREAT) && inside(path) && fails() ? -1 : real(path, flags, mode);
}

int rename(const char* from, const char* to) {
    typedef int (*Type)(const char*, const char*);
    REAL("rename", Type);
    return inside(to) && fails() ? -1 : real(from, to);
}

int unlink(const char* path) {
    typedef int (*Type)(const char*);
    REAL("unlink", Type);
    return inside(path) && fails() ? -1 : real(path);
}

int mkdir(const char* path, mode_t mode) {
    typedef int (*Type)(const char*, mode_t);
    REAL("mkdir", Type);
    return inside(path) && fails() ? -1 : real(path, mode);
}

int link(const char* from, const char* to) {
    typedef int (*Type)(const char*, const char*);
    REAL("link", Type);
    return inside(to) && fails() ? -1 : real(from, to);
}

int symlink(const char* target, const char* path) {
    typedef int (*Type)(const char*, const char*);
    REAL("symlink", Type);
    return inside(path) && fails() ? -1 : real(target, path);
}

int chmod(const char* path, mode_t mode) {
    typedef int (*Type)(const char*, mode_t);
    REAL("chmod", Type);
    return inside(path) && fails() ? -1 : real(path, mode);
}
