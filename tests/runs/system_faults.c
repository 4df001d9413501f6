/* Let the n-th system call that would change something below a folder fail; preloaded before the C library.
   It sees what Python's own functions do not show: writers in C++ and Rust, and each write to an open file. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char folder[PATH_MAX], met[PATH_MAX + 64];
static int armed, code;
static long turn, seen;

/* What is counted from now on: calls below `below`, of which number `number` (from 0) fails with `error`. */
void faults_arm(const char *below, int error, long number) {
    snprintf(folder, sizeof folder, "%s", below);
    met[0] = 0, code = error, turn = number, seen = 0, armed = 1;
}

/* Stop; how many calls were counted. */
long faults_disarm(void) {
    armed = 0;
    return seen;
}

/* The call that failed and its path; empty where none did. */
const char *faults_met(void) { return met; }

static int due(const char *call, const char *path) {
    if (!armed || !path || strncmp(path, folder, strlen(folder))) return 0;
    if (__atomic_fetch_add(&seen, 1, __ATOMIC_SEQ_CST) != turn) return 0;
    snprintf(met, sizeof met, "%s %s", call, path);
    errno = code;
    return 1;
}

static int due_at(const char *call, int at, const char *path) {
    char link[64], whole[2 * PATH_MAX];
    if (!armed || !path || path[0] == '/' || at == AT_FDCWD) return due(call, path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t length = readlink(link, whole, PATH_MAX - 1);
    if (length < 0) return 0;
    snprintf(whole + length, sizeof whole - length, "/%s", path);
    return due(call, whole);
}

static int due_file(const char *call, int file) {
    char link[64], whole[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, whole, sizeof whole - 1);
    if (length < 0) return 0;
    whole[length] = 0;
    return due(call, whole);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CHANGES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT))
#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) {
    MODE(flags) return CHANGES(flags) && due("open", path) ? -1 : NEXT(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags) return CHANGES(flags) && due("open", path) ? -1 : NEXT(open64)(path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) {
    MODE(flags) return CHANGES(flags) && due_at("open", at, path) ? -1 : NEXT(openat)(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE(flags) return CHANGES(flags) && due_at("open", at, path) ? -1 : NEXT(openat64)(at, path, flags, mode);
}
FILE *fopen(const char *path, const char *how) {
    return how[0] != 'r' && due("open", path) ? NULL : NEXT(fopen)(path, how);
}
FILE *fopen64(const char *path, const char *how) {
    return how[0] != 'r' && due("open", path) ? NULL : NEXT(fopen64)(path, how);
}

#define CALL(result, name, said, test, parameters, arguments) \
    result name parameters { return test ? -1 : NEXT(name) arguments; }
#define PATH(name, parameters, arguments) CALL(int, name, #name, due(#name, path), parameters, arguments)
#define AT(name, parameters, arguments) CALL(int, name, #name, due_at(#name, at, path), parameters, arguments)
#define OPENED(result, name, parameters, arguments) \
    CALL(result, name, #name, due_file(#name, file), parameters, arguments)

PATH(mkdir, (const char *path, mode_t mode), (path, mode))
AT(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
PATH(rename, (const char *path, const char *to), (path, to))
AT(renameat, (int at, const char *path, int other, const char *to), (at, path, other, to))
PATH(unlink, (const char *path), (path))
AT(unlinkat, (int at, const char *path, int flags), (at, path, flags))
PATH(rmdir, (const char *path), (path))
PATH(link, (const char *path, const char *to), (path, to))
PATH(truncate, (const char *path, off_t size), (path, size))
OPENED(ssize_t, write, (int file, const void *content, size_t size), (file, content, size))
OPENED(ssize_t, pwrite, (int file, const void *content, size_t size, off_t at), (file, content, size, at))
OPENED(ssize_t, pwrite64, (int file, const void *content, size_t size, off_t at), (file, content, size, at))
OPENED(ssize_t, writev, (int file, const struct iovec *parts, int count), (file, parts, count))
OPENED(int, fsync, (int file), (file))
OPENED(int, fdatasync, (int file), (file))
OPENED(int, ftruncate, (int file, off_t size), (file, size))
OPENED(int, ftruncate64, (int file, off_t size), (file, size))
OPENED(int, posix_fallocate, (int file, off_t at, off_t size), (file, at, size))
