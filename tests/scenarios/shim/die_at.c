// Preloaded into the binary under test: counts the calls that change files, and ends the process before the Nth of them as
// SIGKILL does, or as it is asked, only counts. Sockets, pipes and wake-ups are not counted.
//
//   QUORATE_DIE_AT=N      the Nth counted call is the last thing that does not happen; 0 or unset: never
//   QUORATE_COUNT_TO=FILE the counts, one line "writes syncs renames", at a normal exit
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls, writes, syncs, renames;

static long die_at(void) {
    static long at = -1;
    if (at < 0) {
        const char *text = getenv("QUORATE_DIE_AT");
        at = text ? atol(text) : 0;
    }
    return at;
}

static void counted(atomic_long *kind) {
    atomic_fetch_add(kind, 1);
    if (atomic_fetch_add(&calls, 1) + 1 == die_at()) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

static int is_file(int fd) {
    struct stat found;
    return fd > 2 && fstat(fd, &found) == 0 && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode));
}

__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("QUORATE_COUNT_TO");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "%ld %ld %ld\n", atomic_load(&writes), atomic_load(&syncs), atomic_load(&renames));
    fclose(file);
}

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (is_file(fd)) counted(&writes);
    return real(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    if (is_file(fd)) counted(&writes);
    return real(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    if (is_file(fd)) counted(&writes);
    return real(fd, bytes, count, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (is_file(fd)) counted(&writes);
    return real(fd, parts, count);
}

int ftruncate(int fd, off_t length) {
    REAL(int, ftruncate, int, off_t);
    if (is_file(fd)) counted(&writes);
    return real(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    REAL(int, ftruncate64, int, off64_t);
    if (is_file(fd)) counted(&writes);
    return real(fd, length);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    counted(&writes);
    return real(path);
}

int fsync(int fd) {
    REAL(int, fsync, int);
    if (is_file(fd)) counted(&syncs);
    return real(fd);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    if (is_file(fd)) counted(&syncs);
    return real(fd);
}

int sync_file_range(int fd, off64_t from, off64_t count, unsigned int flags) {
    REAL(int, sync_file_range, int, off64_t, off64_t, unsigned int);
    if (is_file(fd)) counted(&syncs);
    return real(fd, from, count, flags);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    counted(&renames);
    return real(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    counted(&renames);
    return real(from_dir, from, to_dir, to);
}
