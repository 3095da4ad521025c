/* A shared object to preload into a run: it counts the calls that change files under one folder,
   and makes one of them go wrong; and it can kill the process after a time, in whatever it does
   then.

   Nothing happens before faults_arm. A call is "under the folder" by its path, or by what
   /proc/self/fd says of its descriptor. Modes, of call number `at`, the first being 1:

       kill    the process dies before the call
       torn    it dies after it, and of a write only half is done
       error   the call fails: a write or anything that makes a file finds the disk full, others EIO
       short   a write does half, as any write may, and everything goes on

   Read next: lives.py, which preloads it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum mode { NONE, KILL, TORN, ERROR, SHORT };

static char root[PATH_MAX];
static size_t root_length;
static int mode = NONE;
static long at, calls;
static char history[1 << 20]; /* "rename FROM TO\n" of every counted call */
static size_t history_length;

void faults_arm(const char* folder, long number, int how) {
    root_length = strlen(folder);
    memcpy(root, folder, root_length + 1);
    calls = 0, at = number, mode = how, history_length = 0;
}

const char* faults_history(void) { return history; }

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static void* executioner(void* microseconds) {
    usleep((useconds_t)(intptr_t)microseconds);
    die();
    return NULL;
}

/* SIGKILL after a time, from a thread of its own: native code is not waited for. */
int faults_kill_in(long microseconds) {
    pthread_t thread;
    return pthread_create(&thread, NULL, executioner, (void*)(intptr_t)microseconds);
}

static int under(const char* path) { return root_length && !strncmp(path, root, root_length); }

/* The path of a descriptor; "" before anything is armed, and where it has none. */
static const char* path_of(int descriptor) {
    static _Thread_local char path[PATH_MAX];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t length = root_length ? readlink(link, path, sizeof path - 1) : 0;
    path[length > 0 ? length : 0] = 0;
    return path;
}

/* Whether this call is the one that goes wrong. */
static int chosen(int ours, const char* name, const char* from, const char* to) {
    if (!ours) return 0;
    const size_t room = sizeof history - history_length;
    const int length = snprintf(history + history_length, room, "%s %s %s\n", name, from, to);
    if (length > 0 && (size_t)length < room) history_length += length;
    return ++calls == at && mode != NONE;
}

static void* real(const char* name) { return dlsym(RTLD_NEXT, name); }

/* A call whose failure has this errno; it is one that either happens or does not. */
#define WHOLE(ours, number, from, to, call)                                  \
    do {                                                                     \
        if (!chosen(ours, __func__, from, to) || mode == SHORT) return call; \
        if (mode == KILL) die();                                             \
        if (mode == TORN) {                                                  \
            call;                                                            \
            die();                                                           \
        }                                                                    \
        errno = number;                                                      \
        return -1;                                                           \
    } while (0)

int rename(const char* from, const char* to) {
    int (*next)(const char*, const char*) = real("rename");
    WHOLE(under(to), EIO, from, to, next(from, to));
}

int link(const char* from, const char* to) {
    int (*next)(const char*, const char*) = real("link");
    WHOLE(under(to), EPERM, from, to, next(from, to));
}

int unlink(const char* path) {
    int (*next)(const char*) = real("unlink");
    WHOLE(under(path), EIO, path, "", next(path));
}

int mkdir(const char* path, mode_t rights) {
    int (*next)(const char*, mode_t) = real("mkdir");
    WHOLE(under(path), ENOSPC, path, "", next(path, rights));
}

int rmdir(const char* path) {
    int (*next)(const char*) = real("rmdir");
    WHOLE(under(path), EIO, path, "", next(path));
}

int fsync(int descriptor) {
    int (*next)(int) = real("fsync");
    const char* path = path_of(descriptor);
    WHOLE(under(path), EIO, path, "", next(descriptor));
}

static int truncated(int descriptor, off_t size, const char* name) {
    int (*next)(int, off_t) = real(name);
    const char* path = path_of(descriptor);
    WHOLE(under(path), EIO, path, "", next(descriptor, size));
}

int ftruncate(int descriptor, off_t size) { return truncated(descriptor, size, "ftruncate"); }
int ftruncate64(int descriptor, off_t size) { return truncated(descriptor, size, "ftruncate64"); }

static int opened(const char* name, const char* path, int flags, mode_t rights) {
    int (*next)(const char*, int, ...) = real(name);
    WHOLE((flags & O_CREAT) && under(path), ENOSPC, path, "", next(path, flags, rights));
}

#define OPEN(name)                                 \
    int name(const char* path, int flags, ...) {   \
        mode_t rights = 0;                         \
        if (flags & O_CREAT) {                     \
            va_list rest;                          \
            va_start(rest, flags);                 \
            rights = va_arg(rest, mode_t);         \
            va_end(rest);                          \
        }                                          \
        return opened(#name, path, flags, rights); \
    }
OPEN(open)
OPEN(open64)

/* `call(n)` writes n bytes. */
#define WRITES(descriptor, count, call)                                  \
    do {                                                                 \
        const char* path = path_of(descriptor);                          \
        if (!chosen(under(path), "write", path, "")) return call(count); \
        if (mode == KILL) die();                                         \
        if (mode == TORN) {                                              \
            const ssize_t half = call(count / 2);                        \
            (void)half;                                                  \
            die();                                                       \
        }                                                                \
        if (mode == SHORT) return call((count + 1) / 2);                 \
        errno = ENOSPC;                                                  \
        return -1;                                                       \
    } while (0)

ssize_t write(int descriptor, const void* data, size_t count) {
    ssize_t (*next)(int, const void*, size_t) = real("write");
#define PLAIN(n) next(descriptor, data, n)
    WRITES(descriptor, count, PLAIN);
}

ssize_t pwrite64(int descriptor, const void* data, size_t count, off64_t place) {
    ssize_t (*next)(int, const void*, size_t, off64_t) = real("pwrite64");
#define PLACED(n) next(descriptor, data, n, place)
    WRITES(descriptor, count, PLACED);
}
