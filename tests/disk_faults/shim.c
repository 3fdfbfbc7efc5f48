/* Preloaded into a process: fails chosen calls on files under a directory, and counts them all. What to fail stands in a
 * file that both processes map or read, so that it can be changed at any time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE, SYNC, TRUNCATE, CREATE, KINDS };
enum fault { NONE, IO_ERROR, NO_SPACE, SHORT_WRITE, SLOW_ERROR };

/* Mirrored in faults.rs. */
struct control {
    _Atomic uint64_t kind;     /* which calls fail */
    _Atomic uint64_t first;    /* the first one that does, counted from 1 */
    _Atomic uint64_t last;     /* and the last one */
    _Atomic uint64_t fault;
    _Atomic uint64_t failed;   /* how many did */
    _Atomic uint64_t retried;  /* syncs by fdatasync of a journal's handle that had failed before */
    _Atomic uint64_t calls[KINDS];
    _Atomic uint64_t held;     /* while this is not 0, a slow error is under way */
};

#define FDS 65536
static struct control *control;
static const char *prefix;
static _Atomic char failed_before[FDS];

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("EVERSTEP_FAULT_CONTROL");
    prefix = getenv("EVERSTEP_FAULT_PREFIX");
    int fd = path && prefix ? open(path, O_RDWR) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED) control = mapped;
}

static enum fault decide(enum kind kind, const char *path) {
    if (!control || !path || strncmp(path, prefix, strlen(prefix)) != 0) return NONE;
    uint64_t call = atomic_fetch_add(&control->calls[kind], 1) + 1;
    if (atomic_load(&control->kind) != (uint64_t)kind) return NONE;
    if (call < atomic_load(&control->first) || call > atomic_load(&control->last)) return NONE;
    atomic_fetch_add(&control->failed, 1);
    enum fault fault = atomic_load(&control->fault);
    if (fault == SHORT_WRITE && call > atomic_load(&control->first)) fault = NO_SPACE;
    while (fault == SLOW_ERROR && atomic_load(&control->held)) usleep(1000);
    errno = fault == NO_SPACE || fault == SHORT_WRITE ? ENOSPC : EIO;
    return fault;
}

static const char *path_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t bytes = readlink(link, buffer, PATH_MAX - 1);
    if (bytes < 0) return NULL;
    buffer[bytes] = 0;
    return buffer;
}

static enum fault decide_fd(enum kind kind, int fd) {
    char buffer[PATH_MAX];
    if (!control || fd <= 2) return NONE;
    int before = errno;
    const char *path = path_of(fd, buffer);
    errno = before;
    enum fault fault = decide(kind, path);
    if (fault != NONE && fd < FDS) failed_before[fd] = 1;
    return fault;
}

#define REAL(name) ({ static typeof(&name) real; if (!real) real = (typeof(&name))dlsym(RTLD_NEXT, #name); real; })

ssize_t write(int fd, const void *bytes, size_t count) {
    switch (decide_fd(WRITE, fd)) {
    case NONE: return REAL(write)(fd, bytes, count);
    case SHORT_WRITE: return REAL(write)(fd, bytes, count > 1 ? count / 2 : count);
    default: return -1;
    }
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    switch (decide_fd(WRITE, fd)) {
    case NONE: return REAL(writev)(fd, parts, count);
    case SHORT_WRITE: return REAL(write)(fd, parts[0].iov_base, parts[0].iov_len / 2);
    default: return -1;
    }
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    switch (decide_fd(WRITE, fd)) {
    case NONE: return REAL(pwrite64)(fd, bytes, count, at);
    case SHORT_WRITE: return REAL(pwrite64)(fd, bytes, count > 1 ? count / 2 : count, at);
    default: return -1;
    }
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }

int fsync(int fd) { return decide_fd(SYNC, fd) == NONE ? REAL(fsync)(fd) : -1; }
int fdatasync(int fd) {
    /* Nobody but a commit of the database calls this. */
    if (control && fd >= 0 && fd < FDS && failed_before[fd]) atomic_fetch_add(&control->retried, 1);
    return decide_fd(SYNC, fd) == NONE ? REAL(fdatasync)(fd) : -1;
}
int close(int fd) {
    if (fd >= 0 && fd < FDS) failed_before[fd] = 0;
    return REAL(close)(fd);
}

int ftruncate64(int fd, off64_t bytes) { return decide_fd(TRUNCATE, fd) == NONE ? REAL(ftruncate64)(fd, bytes) : -1; }
int ftruncate(int fd, off_t bytes) { return ftruncate64(fd, bytes); }

int mkdir(const char *path, mode_t mode) { return decide(CREATE, path) == NONE ? REAL(mkdir)(path, mode) : -1; }
static int creates(const char *path, int flags) { return flags & O_CREAT && decide(CREATE, path) != NONE; }
#define MODE ({ mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); \
    mode = va_arg(rest, mode_t); va_end(rest); } mode; })
int open64(const char *path, int flags, ...) {
    mode_t mode = MODE;
    return creates(path, flags) ? -1 : REAL(open64)(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    mode_t mode = MODE;
    return creates(path, flags) ? -1 : REAL(open)(path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
    mode_t mode = MODE;
    return creates(path, flags) ? -1 : REAL(openat64)(dir, path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
    mode_t mode = MODE;
    return creates(path, flags) ? -1 : REAL(openat)(dir, path, flags, mode);
}
