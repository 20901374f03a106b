/* What recorder.c stands on: which folder, which file, the trace, and whether an operation may go on.
 * All static: a library that is loaded into every program must not hand out names of its own. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef __LP64__
#error "off_t must have 64 bits"
#endif

struct header {
    char magic[8];
    uint64_t count; /* operations so far, over all processes */
    uint64_t later; /* 1 once half a write was let through: the error is the next operation's */
};

struct __attribute__((packed)) record {
    uint32_t length; /* of all that follows this struct */
    uint8_t kind, failed_kind;
    uint16_t path_length, other_length;
    int32_t error;
    uint64_t file, number;
    int64_t offset;
};

enum kind {
    CREATE = 'C', TRUNCATE = 'T', WRITE = 'W', SYNC_BEGIN = 'B', SYNC = 'S', RENAME = 'R', LINK = 'L',
    UNLINK = 'U', MAKE_FOLDER = 'D', REMOVE_FOLDER = 'd', MARK = 'M', FAILED = 'F', UNSEEN = '?',
};
enum verdict { GO, HALF, HALF_THEN_KILL, REFUSE };

static char root[PATH_MAX], marks[PATH_MAX];
static size_t root_length;
static int active, trace = -1, error_code, half, lasting;
static int64_t at = -1;
static volatile struct header *header;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void lost(const char *what) { /* a trace with a gap would prove things that are not so */
    syscall(SYS_write, 2, "recorder: ", 10);
    syscall(SYS_write, 2, what, strlen(what));
    syscall(SYS_write, 2, "\n", 1);
    _exit(99);
}

static void lock_trace(short type) {
    struct flock range = {.l_type = type, .l_whence = SEEK_SET};
    while (syscall(SYS_fcntl, trace, F_SETLKW, &range) != 0)
        if (errno != EINTR) lost("the trace was closed by the program");
}
static void enter(void) { pthread_mutex_lock(&mutex); lock_trace(F_WRLCK); }
static void leave(void) { int kept = errno; lock_trace(F_UNLCK); pthread_mutex_unlock(&mutex); errno = kept; }
static void before_fork(void) { pthread_mutex_lock(&mutex); }
static void after_fork(void) { pthread_mutex_unlock(&mutex); }

static long number_from(const char *name, long missing) {
    const char *text = getenv(name);
    return text && *text ? atol(text) : missing;
}

__attribute__((constructor)) static void start(void) {
    const char *folder = getenv("RECORDER_FOLDER"), *path = getenv("RECORDER_TRACE");
    const char *marked = getenv("RECORDER_MARKS");
    if (!folder || !path) return;
    int low = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_APPEND | O_CLOEXEC, 0);
    if (low < 0) lost("the trace cannot be opened");
    trace = syscall(SYS_fcntl, low, F_DUPFD_CLOEXEC, 700); /* out of the way of close loops */
    if (trace < 0) lost("no descriptor 700");
    syscall(SYS_close, low);
    header = mmap(NULL, sizeof *header, PROT_READ | PROT_WRITE, MAP_SHARED, trace, 0);
    if (header == MAP_FAILED) lost("the trace cannot be mapped");
    snprintf(root, sizeof root, "%s", folder);
    snprintf(marks, sizeof marks, "%s", marked ? marked : "");
    root_length = strlen(root);
    at = number_from("RECORDER_AT", -1);
    error_code = number_from("RECORDER_ERRNO", 0);
    half = number_from("RECORDER_HALF", 0);
    lasting = number_from("RECORDER_LASTING", 0);
    pthread_atfork(before_fork, after_fork, after_fork);
    active = 1;
}

/* --- what is inside the folder --- */

static const char *inside(const char *path) { /* relative to the folder, or NULL */
    size_t length = strlen(path);
    if (strncmp(path, root, root_length) != 0) return NULL;
    if (path[root_length] != '\0' && path[root_length] != '/') return NULL;
    if (length > 4 && strcmp(path + length - 4, "-shm") == 0) return NULL;
    return path + root_length + (path[root_length] == '/');
}

static const char *full_path(int fd, char *buffer) {
    char link[40];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    buffer[length > 0 ? length : 0] = '\0';
    char *deleted = length > 10 ? buffer + length - 10 : NULL;
    if (deleted && strcmp(deleted, " (deleted)") == 0) *deleted = '\0';
    errno = kept;
    return buffer;
}

static const char *of_descriptor(int fd, char *buffer) {
    return active ? inside(full_path(fd, buffer)) : NULL;
}

/* The folder of a path without its links, and its last name as it is: what rename and unlink act on. */
static const char *of_path(int folder, const char *path, char *buffer) {
    char joined[PATH_MAX + 40], resolved[PATH_MAX];
    int kept = errno;
    if (!active || !path || !*path || strlen(path) >= PATH_MAX) return NULL;
    if (*path == '/' || folder == AT_FDCWD) snprintf(joined, sizeof joined, "%s", path);
    else snprintf(joined, sizeof joined, "/proc/self/fd/%d/%s", folder, path);
    size_t length = strlen(joined);
    while (length > 1 && joined[length - 1] == '/') joined[--length] = '\0';
    char *slash = strrchr(joined, '/'), *name = slash ? slash + 1 : joined;
    const char *parent = slash == joined ? "/" : slash ? joined : ".";
    if (slash) *slash = '\0';
    if (slash == joined) parent = "/";
    char *found = realpath(parent, resolved);
    errno = kept;
    if (!found || snprintf(buffer, PATH_MAX, "%s/%s", found, name) >= PATH_MAX) return NULL;
    return inside(buffer);
}

/* --- the trace --- */

static void append(struct record *what, const char *path, const char *other, const void *data, size_t size) {
    what->path_length = strlen(path);
    what->other_length = other ? strlen(other) : 0;
    what->length = what->path_length + what->other_length + size;
    struct iovec parts[4] = {{what, sizeof *what}, {(void *)path, what->path_length},
                             {(void *)other, what->other_length}, {(void *)data, size}};
    int kept = errno;
    ssize_t written = syscall(SYS_writev, trace, parts, 4);
    if (written != (ssize_t)(sizeof *what + what->length)) lost("the trace cannot be written");
    errno = kept;
}

static void simple(enum kind kind, uint64_t file, int64_t offset, const char *path, const char *other) {
    struct record what = {.kind = kind, .file = file, .offset = offset};
    append(&what, path, other, NULL, 0);
}

static void unseen(const char *path, const char *call) {
    enter();
    simple(UNSEEN, 0, 0, path, call);
    leave();
}

static int needs_space(enum kind kind) { return kind != UNLINK && kind != REMOVE_FOLDER && kind != TRUNCATE; }

/* Counts an operation and decides about it; called with the lock. `taken_back` uncounts it. */
static enum verdict judge(enum kind kind, uint64_t file, const char *path, size_t size) {
    int64_t number = header->count++;
    int64_t first = at + (int64_t)header->later;
    if (at < 0 || number < first || (number > first && !lasting)) return GO;
    if (error_code == 0) {
        if (half && kind == WRITE && size > 1) return HALF_THEN_KILL;
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (error_code == ENOSPC && !needs_space(kind)) return GO; /* a full disk can still be cleaned up */
    if (half && kind == WRITE && size > 1 && !header->later) {
        header->later = 1;
        return HALF;
    }
    struct record what = {.kind = FAILED, .failed_kind = kind, .error = error_code, .file = file};
    append(&what, path, NULL, NULL, 0);
    errno = error_code;
    return REFUSE;
}
static void taken_back(void) { header->count--; }

static uint64_t inode(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 ? status.st_ino : 0;
}
