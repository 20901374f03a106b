/* Records what a program does to the files of one folder, or makes the n-th of it fail.
 *
 * Loaded with LD_PRELOAD (Linux with glibc, 64 bit). recorder.py compiles it, sets the environment
 * and reads the trace:
 *
 *   RECORDER_FOLDER   the folder, without symbolic links in its path
 *   RECORDER_TRACE    the trace, outside the folder; begins with struct header, made by recorder.py
 *   RECORDER_MARKS    each write to this file is a mark: "from here on, X is promised"
 *   RECORDER_AT       number of the operation that fails, counted over all processes from 0
 *   RECORDER_ERRNO    what it fails with; 0 or missing: SIGKILL
 *   RECORDER_HALF     1: half of its bytes are written first
 *   RECORDER_LASTING  1: those after it fail too
 *
 * A file is known by its inode and a descriptor by /proc/self/fd, asked each time. So dup, fork, descriptors that
 * are handed over, and renames of open files need no book-keeping here, and close nothing at all.
 *
 * One lock, over threads (mutex) and processes (record lock on the trace), is held around an
 * operation and its record: the trace has the order in which things happened. An fsync is two
 * records, its begin and its end, without the lock between: what is written by others while it runs
 * is not covered by it, which is the mistake that a group commit can make.
 *
 * Not seen: stores through mmap, stdio, sendfile and the like. They leave a record that makes the reader
 * refuse the trace, so nothing is passed over in silence, except system calls made without libc.
 * Files called *-shm are left out: SQLite's index of its log, rebuilt by whoever opens it first.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include "recorder_trace.h"

/* --- files: open, write, truncate, sync --- */

static int open_any(int folder, const char *path, int flags, mode_t mode) {
    char buffer[PATH_MAX];
    int synchronous = flags & (O_SYNC | O_DSYNC), temporary = (flags & O_TMPFILE) == O_TMPFILE;
    const char *name = NULL;
    if (flags & (O_CREAT | O_TRUNC) || synchronous || temporary) name = of_path(folder, path, buffer);
    if (!name) return syscall(SYS_openat, folder, path, flags, mode);
    if (synchronous) unseen(name, "open with O_SYNC or O_DSYNC");
    if (temporary) unseen(name, "open with O_TMPFILE");
    enter();
    struct stat status;
    int kept = errno, there = fstatat(folder, path, &status, 0) == 0;
    errno = kept;
    enum kind kind = 0;
    if (!there && flags & O_CREAT) kind = CREATE;
    if (there && flags & O_TRUNC && S_ISREG(status.st_mode) && status.st_size > 0) kind = TRUNCATE;
    int fd = -1;
    if (!kind || judge(kind, there ? status.st_ino : 0, name, 0) == GO) {
        fd = syscall(SYS_openat, folder, path, flags, mode);
        if (kind && fd < 0) taken_back();
        else if (kind) simple(kind, inode(fd), 0, name, NULL);
    }
    leave();
    return fd;
}

#define OPENS(name, folder)                                                                     \
    { va_list rest; va_start(rest, flags);                                                      \
      mode_t mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0; \
      va_end(rest); return open_any(folder, path, flags, mode); }
int open(const char *path, int flags, ...) OPENS(open, AT_FDCWD)
int open64(const char *path, int flags, ...) OPENS(open64, AT_FDCWD)
int openat(int folder, const char *path, int flags, ...) OPENS(openat, folder)
int openat64(int folder, const char *path, int flags, ...) OPENS(openat64, folder)
int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __openat_2(int folder, const char *path, int flags) { return open_any(folder, path, flags, 0); }
int __openat64_2(int folder, const char *path, int flags) { return open_any(folder, path, flags, 0); }
int creat(const char *path, mode_t mode) {
    return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

static ssize_t marked(int fd, const void *data, size_t size) {
    struct record what = {.kind = MARK};
    enter();
    append(&what, "", NULL, data, size);
    ssize_t written = syscall(SYS_write, fd, data, size);
    leave();
    return written;
}

/* `offset` -1: at the descriptor's position. */
static ssize_t write_inside(int fd, const char *path, const void *data, size_t size, int64_t offset) {
    struct stat status;
    struct record what = {.kind = WRITE};
    enter();
    if (fstat(fd, &status) != 0) lost("a file without status");
    what.file = status.st_ino;
    what.offset = offset;
    if (syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND) what.offset = status.st_size;
    else if (offset < 0) what.offset = lseek(fd, 0, SEEK_CUR);
    enum verdict verdict = judge(WRITE, what.file, path, size);
    ssize_t written = -1;
    if (verdict != REFUSE) {
        size_t wanted = verdict == GO ? size : size / 2;
        if (offset < 0) written = syscall(SYS_write, fd, data, wanted);
        else written = syscall(SYS_pwrite64, fd, data, wanted, offset);
        if (written < 0) taken_back();
        else append(&what, path, NULL, data, written);
    }
    if (verdict == HALF_THEN_KILL) kill(getpid(), SIGKILL);
    leave();
    return written;
}

/* The pieces go in one call, so that they are one operation. */
static ssize_t write_pieces(int fd, const struct iovec *pieces, int count, int64_t offset, int flags) {
    char buffer[PATH_MAX];
    const char *path = of_descriptor(fd, buffer);
    if (!path && offset == -1) return syscall(SYS_writev, fd, pieces, count);
    if (!path) return syscall(SYS_pwritev2, fd, pieces, count, offset, 0, flags);
    if (flags) unseen(path, "pwritev2 with flags");
    size_t size = 0;
    for (int piece = 0; piece < count; piece++) size += pieces[piece].iov_len;
    char *all = malloc(size + 1), *end = all;
    if (!all) lost("no memory");
    for (int piece = 0; piece < count; piece++) end = mempcpy(end, pieces[piece].iov_base, pieces[piece].iov_len);
    ssize_t written = write_inside(fd, path, all, size, offset);
    free(all);
    return written;
}

ssize_t write(int fd, const void *data, size_t size) {
    char buffer[PATH_MAX];
    const char *path = of_descriptor(fd, buffer);
    if (path) return write_inside(fd, path, data, size, -1);
    if (active && *marks && strcmp(buffer, marks) == 0) return marked(fd, data, size);
    return syscall(SYS_write, fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    char buffer[PATH_MAX];
    const char *path = of_descriptor(fd, buffer);
    if (path && offset >= 0) return write_inside(fd, path, data, size, offset);
    return syscall(SYS_pwrite64, fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    return pwrite(fd, data, size, offset);
}
ssize_t writev(int fd, const struct iovec *pieces, int count) {
    return write_pieces(fd, pieces, count, -1, 0);
}
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
    return write_pieces(fd, pieces, count, offset, 0);
}
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset) {
    return write_pieces(fd, pieces, count, offset, 0);
}
ssize_t pwritev2(int fd, const struct iovec *pieces, int count, off_t offset, int flags) {
    return write_pieces(fd, pieces, count, offset, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *pieces, int count, off64_t offset, int flags) {
    return write_pieces(fd, pieces, count, offset, flags);
}

static int resized(int fd, const char *path, long number, int64_t first, int64_t second, int64_t third) {
    enter();
    int result = -1;
    if (judge(number == SYS_ftruncate ? TRUNCATE : WRITE, inode(fd), path, 0) == GO) {
        struct stat status;
        result = syscall(number, fd, first, second, third);
        if (result != 0 || fstat(fd, &status) != 0) taken_back();
        else simple(TRUNCATE, status.st_ino, status.st_size, path, NULL);
    }
    leave();
    return result;
}
int ftruncate(int fd, off_t size) {
    char buffer[PATH_MAX];
    const char *path = of_descriptor(fd, buffer);
    return path ? resized(fd, path, SYS_ftruncate, size, 0, 0) : syscall(SYS_ftruncate, fd, size);
}
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }
int truncate(const char *path, off_t size) {
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    int result = fd < 0 ? -1 : ftruncate(fd, size), kept = errno;
    if (fd >= 0) syscall(SYS_close, fd);
    errno = kept;
    return result;
}
int truncate64(const char *path, off64_t size) { return truncate(path, size); }
int fallocate(int fd, int mode, off_t offset, off_t size) {
    char buffer[PATH_MAX];
    const char *path = of_descriptor(fd, buffer);
    if (path && mode == 0) return resized(fd, path, SYS_fallocate, 0, offset, size);
    if (path) unseen(path, "fallocate with a mode");
    return syscall(SYS_fallocate, fd, mode, offset, size);
}
int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
    return fallocate(fd, mode, offset, size);
}
int posix_fallocate(int fd, off_t offset, off_t size) {
    return fallocate(fd, 0, offset, size) == 0 ? 0 : errno;
}
int posix_fallocate64(int fd, off64_t offset, off64_t size) { return posix_fallocate(fd, offset, size); }

static int synced(int fd, long number) {
    char buffer[PATH_MAX];
    const char *path = of_descriptor(fd, buffer);
    if (!path) return syscall(number, fd);
    struct record begin = {.kind = SYNC_BEGIN, .file = inode(fd)};
    enter();
    begin.number = header->count;
    if (judge(SYNC_BEGIN, begin.file, path, 0) == REFUSE) {
        leave();
        return -1;
    }
    append(&begin, path, NULL, NULL, 0);
    leave();
    int result = syscall(number, fd);
    if (result != 0) return result;
    struct record end = {.kind = SYNC, .file = begin.file, .number = begin.number};
    enter();
    append(&end, path, NULL, NULL, 0);
    leave();
    return 0;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

/* --- names --- */

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    char old_buffer[PATH_MAX], new_buffer[PATH_MAX];
    const char *source = of_path(from, old, old_buffer), *target = of_path(to, new, new_buffer);
    if (!source && !target) return syscall(SYS_renameat2, from, old, to, new, flags);
    if (!source || !target || flags & ~RENAME_NOREPLACE)
        unseen(source ? source : target, "a rename into or out of the folder, or with flags");
    enter();
    int result = -1;
    if (judge(RENAME, 0, source ? source : target, 0) == GO) {
        result = syscall(SYS_renameat2, from, old, to, new, flags);
        if (result != 0) taken_back();
        else if (source && target) simple(RENAME, 0, 0, source, target);
    }
    leave();
    return result;
}
int renameat(int from, const char *old, int to, const char *new) {
    return renameat2(from, old, to, new, 0);
}
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    char old_buffer[PATH_MAX], new_buffer[PATH_MAX];
    const char *source = of_path(from, old, old_buffer), *target = of_path(to, new, new_buffer);
    if (!target) return syscall(SYS_linkat, from, old, to, new, flags);
    if (!source) unseen(target, "a link to a file that has no name in the folder");
    enter();
    int result = -1;
    if (judge(LINK, 0, target, 0) == GO) {
        result = syscall(SYS_linkat, from, old, to, new, flags);
        if (result != 0) taken_back();
        else if (source) simple(LINK, 0, 0, source, target);
    }
    leave();
    return result;
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

static int named(enum kind kind, int folder, const char *path, mode_t mode) {
    char buffer[PATH_MAX];
    const char *name = of_path(folder, path, buffer);
    int result = -1, removes = kind != MAKE_FOLDER, flags = kind == REMOVE_FOLDER ? AT_REMOVEDIR : 0;
    if (name) enter();
    if (!name || judge(kind, 0, name, 0) == GO) {
        if (removes) result = syscall(SYS_unlinkat, folder, path, flags);
        else result = syscall(SYS_mkdirat, folder, path, mode);
        if (name && result != 0) taken_back();
        else if (name) simple(kind, 0, 0, name, NULL);
    }
    if (name) leave();
    return result;
}
int unlinkat(int folder, const char *path, int flags) {
    return named(flags & AT_REMOVEDIR ? REMOVE_FOLDER : UNLINK, folder, path, 0);
}
int unlink(const char *path) { return named(UNLINK, AT_FDCWD, path, 0); }
int rmdir(const char *path) { return named(REMOVE_FOLDER, AT_FDCWD, path, 0); }
int remove(const char *path) { return unlink(path) == 0 ? 0 : errno == EISDIR ? rmdir(path) : -1; }
int mkdirat(int folder, const char *path, mode_t mode) { return named(MAKE_FOLDER, folder, path, mode); }
int mkdir(const char *path, mode_t mode) { return named(MAKE_FOLDER, AT_FDCWD, path, mode); }

/* --- what cannot be recorded is said --- */

int symlinkat(const char *target, int folder, const char *path) {
    char buffer[PATH_MAX];
    const char *name = of_path(folder, path, buffer);
    if (name) unseen(name, "symlink");
    return syscall(SYS_symlinkat, target, folder, path);
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

static void seen_nowhere(int fd, const char *call) {
    char buffer[PATH_MAX];
    const char *path = of_descriptor(fd, buffer);
    if (path) unseen(path, call);
}
void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0 && flags & MAP_SHARED && protection & PROT_WRITE) seen_nowhere(fd, "mmap");
    return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}
void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset) {
    return mmap(address, size, protection, flags, fd, offset);
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    seen_nowhere(to, "sendfile");
    return syscall(SYS_sendfile, to, from, offset, size);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
    return sendfile(to, from, offset, size);
}
ssize_t copy_file_range(int from, off64_t *first, int to, off64_t *second, size_t size, unsigned flags) {
    seen_nowhere(to, "copy_file_range");
    return syscall(SYS_copy_file_range, from, first, to, second, size, flags);
}
ssize_t splice(int from, off64_t *first, int to, off64_t *second, size_t size, unsigned flags) {
    seen_nowhere(to, "splice");
    return syscall(SYS_splice, from, first, to, second, size, flags);
}
static FILE *opened(const char *call, const char *path, const char *mode) {
    char buffer[PATH_MAX];
    const char *name = strpbrk(mode, "wa+") ? of_path(AT_FDCWD, path, buffer) : NULL;
    if (name) unseen(name, "fopen");
    FILE *(*real)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, call);
    return real(path, mode);
}
FILE *fopen(const char *path, const char *mode) { return opened("fopen", path, mode); }
FILE *fopen64(const char *path, const char *mode) { return opened("fopen64", path, mode); }
