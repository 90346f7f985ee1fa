// Preloaded into the binary under test, in front of the calls that change files: counts them, ends the process before the Nth of
// them as SIGKILL does, and does to synced writes what disks do. Sockets, pipes and wake-ups are not counted.
//
//   QUORATE_DIE_AT=N           the Nth counted call is the last thing that does not happen; 0 or unset: never
//   QUORATE_COUNT_TO=FILE      the counts, one line "writes syncs renames", at a normal exit
//   QUORATE_DISK_ORDERS=FILE   looked at before each call: one line "DELAY_MS FAIL LIE DIE": before each sync wait so long; fail
//                              the next FAIL syncs with EIO; with LIE, sync nothing and say it was done; with DIE > 0, end the
//                              process before the DIEth counted call from now on
//   FILE.done                  of these orders: one line "DELAYED FAILED LIED", for those who want proof
//   FILE.counted               when they are replaced: how many calls were counted under them
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct timespec seen;
static long delay_ms, fail, lie, die, delayed, failed, lied, writes, syncs, renames, since;

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("QUORATE_DIE_AT");
    die = text ? atol(text) : 0;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("QUORATE_COUNT_TO");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "%ld %ld %ld\n", writes, syncs, renames);
    fclose(file);
}

// (What stdio reads and writes here goes by libc's inner calls, and is not counted.)
static void tell_count(const char *orders) {
    char path[4096];
    snprintf(path, sizeof path, "%s.counted", orders);
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "%ld\n", since);
    fclose(file);
    since = 0;
}

static void look(void) {
    const char *path = getenv("QUORATE_DISK_ORDERS");
    struct stat found;
    if (!path || stat(path, &found) != 0) return;
    if (found.st_mtim.tv_sec == seen.tv_sec && found.st_mtim.tv_nsec == seen.tv_nsec) return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    long a, b, c, d;
    if (fscanf(file, "%ld %ld %ld %ld", &a, &b, &c, &d) == 4) {
        delay_ms = a, fail = b, lie = c, die = d;
        seen = found.st_mtim;
        tell_count(path);
    }
    fclose(file);
}

static void tell(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s.done", getenv("QUORATE_DISK_ORDERS"));
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "%ld %ld %ld\n", delayed, failed, lied);
    fclose(file);
}

static int is_file(int fd) {
    struct stat found;
    return fd > 2 && fstat(fd, &found) == 0 && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode));
}

static void counted(long *kind) {
    pthread_mutex_lock(&lock);
    look();
    ++*kind;
    ++since;
    int now = die > 0 && --die == 0;
    pthread_mutex_unlock(&lock);
    if (now) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

// What is to become of one sync: 0 it happens, 1 it is said to have happened, -1 it fails.
static int order(void) {
    pthread_mutex_lock(&lock);
    long wait = delay_ms;
    int what = 0;
    if (fail > 0) what = -1, fail--, failed++;
    else if (lie) what = 1, lied++;
    if (wait) delayed++;
    if (wait || what) tell();
    pthread_mutex_unlock(&lock);
    if (wait) {
        struct timespec time = {wait / 1000, (wait % 1000) * 1000000};
        nanosleep(&time, NULL);
    }
    return what;
}

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define SYNC(call)                     \
    if (is_file(fd)) {                 \
        counted(&syncs);               \
        int what = order();            \
        if (what > 0) return 0;        \
        if (what < 0) {                \
            errno = EIO;               \
            return -1;                 \
        }                              \
    }                                  \
    return call

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
    SYNC(real(fd));
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    SYNC(real(fd));
}

int sync_file_range(int fd, off64_t from, off64_t count, unsigned int flags) {
    REAL(int, sync_file_range, int, off64_t, off64_t, unsigned int);
    SYNC(real(fd, from, count, flags));
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
