/* Stop or kill a program at one of the calls by which it changes files.
 *
 * Preloaded (LD_PRELOAD), it counts the libc calls that change something below one folder, the "area", and notes each in a
 * log: number, call, path, second path, bytes. At a given number it sends a signal to its process group, just before the
 * call, or in the middle of a write after half of its bytes. tests/kills.py compiles it, and holds the other end of the plan.
 *
 * - What a call destroys (a file that is removed, or replaced by a rename) gets a second name in the "stash", by which the
 *   state after a power cut can be put together.
 * - Files without a name (O_TMPFILE) are refused in the area, as many file systems do: the worse case is the one to test.
 * - stdio is seen through fwrite alone; and not seen are writes through a shared mapping. kills.py compares the log with
 *   what is there in the end, so that a blind spot is noticed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static struct plan { /* shared with kills.py, which knows this layout, and with the processes that the program starts */
    volatile long armed, count, next, half, signal;
    char area[1024], log[1024], stash[1024];
} *plan;

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("KILLS_PLAN");
    int file = name ? syscall(SYS_openat, AT_FDCWD, name, O_RDWR) : -1;
    if (file < 0) return;
    void *place = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (place != MAP_FAILED) plan = place;
    syscall(SYS_close, file);
}

/* The absolute path of a name in an open folder, or of an open file where there is no name; whether it is in the area. */
static int inside(int folder, const char *name, char *path)
{
    if (!plan || !plan->armed) return 0;
    char base[PATH_MAX] = "", link[64];
    if (!name || name[0] != '/') {
        if (folder == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t length = readlink(link, base, sizeof base - 1);
            if (length < 0) return 0;
            base[length] = 0;
        }
    }
    int length = snprintf(path, PATH_MAX, name && base[0] ? "%s/%s" : "%s%s", base, name ? name : "");
    size_t area = strlen(plan->area);
    return length < PATH_MAX && !strncmp(path, plan->area, area) && (path[area] == '/' || !path[area]);
}

static void note(const char *line, int length)
{
    int file = syscall(SYS_openat, AT_FDCWD, plan->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    syscall(SYS_write, file, line, length);
    syscall(SYS_close, file);
}

static void stop(long number) /* until kills.py has set another place and lets the program go on */
{
    long half = plan->half;
    kill(0, plan->signal);
    while (plan->next == number && plan->half == half) sched_yield();
}

/* Count a call, and stop before it if it is its turn. Gives its number, negative where it is to stop half way. */
static long enter(const char *call, const char *path, const char *other, size_t bytes)
{
    char line[3 * PATH_MAX];
    int error = errno;
    long number = __atomic_add_fetch(&plan->count, 1, __ATOMIC_SEQ_CST);
    note(line, snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\t%zu\n", number, call, path, other, bytes));
    if (number == plan->next && !plan->half) stop(number);
    errno = error;
    return number == plan->next && plan->half && bytes > 1 ? -number : number;
}

static long leave(long number, long result) /* note where a call failed */
{
    char line[64];
    int error = errno;
    if (result < 0) note(line, snprintf(line, sizeof line, "%ld\tfailed\n", number));
    errno = error;
    return result;
}

static void keep(long number, const char *path) /* what a call is about to destroy */
{
    char stashed[PATH_MAX];
    int error = errno;
    snprintf(stashed, sizeof stashed, "%s/%ld", plan->stash, number);
    syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, stashed, 0);
    errno = error;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define CHANGE(call, path, other, what) return leave(enter(call, path, other, 0), what)

/* Files are made or emptied. */

static int opening(int folder, const char *name, int flags, mode_t mode)
{
    REAL(openat);
    char path[PATH_MAX];
    struct stat facts;
    if (!(flags & (O_CREAT | O_TRUNC | O_TMPFILE)) || !inside(folder, name, path)) return real(folder, name, flags, mode);
    if ((flags & O_TMPFILE) == O_TMPFILE) { errno = EOPNOTSUPP; return -1; }
    int there = !fstatat(AT_FDCWD, path, &facts, 0);
    if (there && (flags & O_TRUNC) && !(flags & O_EXCL) && facts.st_size) CHANGE("truncate", path, "", real(folder, name, flags, mode));
    if (!there && (flags & O_CREAT)) CHANGE("create", path, "", real(folder, name, flags, mode));
    return real(folder, name, flags, mode);
}

#define MODE va_list more; va_start(more, flags); mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0; va_end(more)
int open(const char *name, int flags, ...) { MODE; return opening(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE; return opening(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE; return opening(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE; return opening(folder, name, flags, mode); }
int creat(const char *name, mode_t mode) { return opening(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return creat(name, mode); }
int __open_2(const char *name, int flags) { return opening(AT_FDCWD, name, flags, 0); }
int __open64_2(const char *name, int flags) { return opening(AT_FDCWD, name, flags, 0); }
int __openat_2(int folder, const char *name, int flags) { return opening(folder, name, flags, 0); }
int __openat64_2(int folder, const char *name, int flags) { return opening(folder, name, flags, 0); }

int truncate(const char *name, off_t size)
{
    REAL(truncate);
    char path[PATH_MAX];
    if (!inside(AT_FDCWD, name, path)) return real(name, size);
    CHANGE("truncate", path, "", real(name, size));
}
int truncate64(const char *name, off64_t size) { return truncate(name, size); }

int ftruncate(int file, off_t size)
{
    REAL(ftruncate);
    char path[PATH_MAX];
    if (!inside(file, NULL, path)) return real(file, size);
    CHANGE("truncate", path, "", real(file, size));
}
int ftruncate64(int file, off64_t size) { return ftruncate(file, size); }

/* Files are written. `first` and `rest` do it in two steps. */

#define WRITE(file, bytes, whole, first, rest) do { \
    char path[PATH_MAX]; \
    if (!inside(file, NULL, path)) return whole; \
    long number = enter("write", path, "", bytes); \
    if (number > 0) return leave(number, whole); \
    ssize_t done = first; \
    stop(-number); \
    ssize_t more = rest; \
    return more < 0 ? more : done + more; } while (0)

ssize_t write(int file, const void *data, size_t bytes)
{
    REAL(write);
    WRITE(file, bytes, real(file, data, bytes), real(file, data, bytes / 2), real(file, (const char *)data + done, bytes - done));
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t at)
{
    REAL(pwrite);
    WRITE(file, bytes, real(file, data, bytes, at), real(file, data, bytes / 2, at), real(file, (const char *)data + done, bytes - done, at + done));
}
ssize_t pwrite64(int file, const void *data, size_t bytes, off64_t at) { return pwrite(file, data, bytes, at); }

ssize_t writev(int file, const struct iovec *parts, int count) /* in two steps: the first part, and the others */
{
    REAL(writev);
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    WRITE(file, count > 1 ? bytes : 1, real(file, parts, count), real(file, parts, 1), real(file, parts + 1, count - 1));
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) /* written at once, so that the order is that of the log */
{
    REAL(fwrite);
    char path[PATH_MAX];
    if (!inside(fileno(stream), NULL, path)) return real(data, size, count, stream);
    size_t done = 0;
    if (enter("write", path, "", size * count) < 0) {
        done = count / 2;
        real(data, size, done, stream);
        fflush(stream);
        stop(plan->next);
    }
    done += real((const char *)data + done * size, size, count - done, stream);
    fflush(stream);
    return done;
}

ssize_t sendfile(int to, int from, off_t *offset, size_t bytes)
{
    REAL(sendfile);
    WRITE(to, bytes, real(to, from, offset, bytes), real(to, from, offset, 1), real(to, from, offset, bytes));
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t bytes) { return sendfile(to, from, offset, bytes); }

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *where, size_t bytes, unsigned flags)
{
    REAL(copy_file_range);
    WRITE(to, bytes, real(from, at, to, where, bytes, flags), real(from, at, to, where, 1, flags), real(from, at, to, where, bytes, flags));
}

#define SYNC(name) int name(int file) { REAL(name); char path[PATH_MAX]; \
    if (!inside(file, NULL, path)) return real(file); \
    CHANGE("sync", path, "", real(file)); }
SYNC(fsync)
SYNC(fdatasync)

/* Names are given and taken. */

static int moving(int from, const char *name, int to, const char *other, unsigned flags)
{
    REAL(renameat);
    char path[PATH_MAX], target[PATH_MAX];
    int counts = inside(from, name, path) | inside(to, other, target);
    int result = 0;
    if (!counts) return flags ? syscall(SYS_renameat2, from, name, to, other, flags) : real(from, name, to, other);
    long number = enter("rename", path, target, 0);
    keep(number, target);
    result = flags ? syscall(SYS_renameat2, from, name, to, other, flags) : real(from, name, to, other);
    return leave(number, result);
}
int rename(const char *name, const char *other) { return moving(AT_FDCWD, name, AT_FDCWD, other, 0); }
int renameat(int from, const char *name, int to, const char *other) { return moving(from, name, to, other, 0); }
int renameat2(int from, const char *name, int to, const char *other, unsigned flags) { return moving(from, name, to, other, flags); }

int unlinkat(int folder, const char *name, int flags)
{
    REAL(unlinkat);
    char path[PATH_MAX];
    if (!inside(folder, name, path)) return real(folder, name, flags);
    long number = enter(flags & AT_REMOVEDIR ? "rmdir" : "unlink", path, "", 0);
    if (!(flags & AT_REMOVEDIR)) keep(number, path);
    return leave(number, real(folder, name, flags));
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int linkat(int from, const char *name, int to, const char *other, int flags)
{
    REAL(linkat);
    char path[PATH_MAX], target[PATH_MAX];
    if (!inside(to, other, target)) return real(from, name, to, other, flags);
    inside(from, name, path);
    CHANGE("link", path, target, real(from, name, to, other, flags));
}
int link(const char *name, const char *other) { return linkat(AT_FDCWD, name, AT_FDCWD, other, 0); }

int symlinkat(const char *leads_to, int folder, const char *name)
{
    REAL(symlinkat);
    char path[PATH_MAX];
    if (!inside(folder, name, path)) return real(leads_to, folder, name);
    CHANGE("symlink", path, leads_to, real(leads_to, folder, name));
}
int symlink(const char *leads_to, const char *name) { return symlinkat(leads_to, AT_FDCWD, name); }

int mkdirat(int folder, const char *name, mode_t mode)
{
    REAL(mkdirat);
    char path[PATH_MAX];
    if (!inside(folder, name, path)) return real(folder, name, mode);
    CHANGE("mkdir", path, "", real(folder, name, mode));
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

/* Times and rights. */

int utimensat(int folder, const char *name, const struct timespec times[2], int flags)
{
    REAL(utimensat);
    char path[PATH_MAX];
    if (!inside(folder, name, path)) return real(folder, name, times, flags);
    CHANGE("utime", path, "", real(folder, name, times, flags));
}

int futimens(int file, const struct timespec times[2])
{
    REAL(futimens);
    char path[PATH_MAX];
    if (!inside(file, NULL, path)) return real(file, times);
    CHANGE("utime", path, "", real(file, times));
}

int fchmodat(int folder, const char *name, mode_t mode, int flags)
{
    REAL(fchmodat);
    char path[PATH_MAX];
    if (!inside(folder, name, path)) return real(folder, name, mode, flags);
    CHANGE("chmod", path, "", real(folder, name, mode, flags));
}
int chmod(const char *name, mode_t mode) { return fchmodat(AT_FDCWD, name, mode, 0); }

int fchmod(int file, mode_t mode)
{
    REAL(fchmod);
    char path[PATH_MAX];
    if (!inside(file, NULL, path)) return real(file, mode);
    CHANGE("chmod", path, "", real(file, mode));
}
