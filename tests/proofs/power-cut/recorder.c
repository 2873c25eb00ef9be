/*
 * Records what a process does to the files below one directory, in order and with the bytes, so that the power-cut proof
 * can rebuild what a disk may hold after any of these operations. Loaded with LD_PRELOAD:
 *
 *     VALETKEY_RECORD_ROOT      the directory; what lies below it is recorded
 *     VALETKEY_RECORD_JOURNAL   the file, outside of that directory, that records are appended to
 *
 * A record is a header and `length` bytes. Operations on recorded files are done and recorded under one lock: the order
 * of the journal is the order in which they took effect. Calls that bypass libc (a library may rename or open so) are seen
 * by their effects: whenever a name may have changed, the directories are listed and the differences recorded.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    CREATED = 'C',   /* object came into being; offset 1 for a directory */
    WRITTEN = 'W',   /* data at offset of object */
    RESIZED = 'T',   /* object has offset bytes now */
    SYNCED = 'S',    /* object's content and size, or a directory's names, are on the disk */
    LINKED = 'L',    /* directory offset has the name data + 8 for object; data begins with the batch */
    UNLINKED = 'U',  /* directory offset has no such name any more; object is what it named */
    MARKED = 'M'     /* the process says something */
};

struct header {
    uint8_t kind;
    uint8_t zero[3];
    uint32_t length;
    uint64_t object;
    uint64_t offset;
};

/* Writes to a file of this name are messages to whoever reads the journal. */
static const char MARKS[] = "power-cut.marks";

struct object {
    ino_t inode;
    uint64_t id;
    int directory;
    int marks;
    int named;
    char path[PATH_MAX]; /* of a directory */
};

struct name {
    uint64_t directory;
    uint64_t object;
    int seen;
    char text[NAME_MAX + 1];
};

#define OBJECTS 512
#define NAMES 512

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static dev_t device;
static int journal = -1;
static struct object objects[OBJECTS];
static size_t object_count;
static uint64_t next_object;
static struct name names[NAMES];
static size_t name_count;
static uint64_t batch;

/* A record that is missing would make the proof say what it cannot know. */
static void give_up(const char *why) {
    syscall(SYS_write, 2, "recorder: ", 10);
    syscall(SYS_write, 2, why, strlen(why));
    syscall(SYS_write, 2, "\n", 1);
    abort();
}

static void record(uint8_t kind, uint64_t object, uint64_t offset, const void *head, size_t head_length,
                   const void *data, size_t length) {
    struct header header = {.kind = kind, .length = (uint32_t)(head_length + length), .object = object, .offset = offset};
    struct iovec parts[3] = {{&header, sizeof header}, {(void *)head, head_length}, {(void *)data, length}};
    ssize_t expected = (ssize_t)(sizeof header + head_length + length);
    if (syscall(SYS_writev, journal, parts, 3) != expected) give_up("the journal cannot be written");
}

static struct object *by_inode(ino_t inode) {
    for (size_t i = 0; i < object_count; i++)
        if (objects[i].inode == inode) return &objects[i];
    return NULL;
}

static struct object *by_id(uint64_t id) {
    for (size_t i = 0; i < object_count; i++)
        if (objects[i].id == id) return &objects[i];
    return NULL;
}

static struct object *created(ino_t inode, int directory) {
    if (object_count == OBJECTS) give_up("too many files");
    struct object *object = &objects[object_count++];
    memset(object, 0, sizeof *object);
    object->inode = inode;
    object->id = next_object++;
    object->directory = directory;
    record(CREATED, object->id, (uint64_t)directory, NULL, 0, NULL, 0);
    return object;
}

/* What a file held when it was first seen. */
static void record_content(int directory, const char *name, uint64_t object) {
    char buffer[65536];
    int file = (int)syscall(SYS_openat, directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (file < 0) return;
    uint64_t offset = 0;
    for (ssize_t got; (got = syscall(SYS_read, file, buffer, sizeof buffer)) > 0; offset += (uint64_t)got)
        record(WRITTEN, object, offset, NULL, 0, buffer, (size_t)got);
    syscall(SYS_close, file);
}

static void record_name(uint8_t kind, uint64_t directory, uint64_t object, const char *text) {
    record(kind, object, directory, &batch, sizeof batch, text, strlen(text));
}

static struct name *find_name(uint64_t directory, const char *text) {
    for (size_t i = 0; i < name_count; i++)
        if (names[i].directory == directory && strcmp(names[i].text, text) == 0) return &names[i];
    return NULL;
}

static void list_directory(uint64_t id) {
    char path[PATH_MAX];
    strcpy(path, by_id(id)->path);
    DIR *stream = opendir(path);
    if (stream == NULL) return;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (fstatat(dirfd(stream), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
        int directory = S_ISDIR(status.st_mode);
        if (!directory && !S_ISREG(status.st_mode)) continue;
        struct object *object = by_inode(status.st_ino);
        int is_new = object == NULL;
        if (is_new) object = created(status.st_ino, directory);
        uint64_t object_id = object->id;
        if (is_new && directory && (size_t)snprintf(object->path, PATH_MAX, "%s/%s", path, entry->d_name) >= PATH_MAX)
            give_up("a path is too long");
        if (is_new && strcmp(entry->d_name, MARKS) == 0) object->marks = 1;
        if (is_new && !directory && !object->marks && status.st_size > 0)
            record_content(dirfd(stream), entry->d_name, object_id);
        struct name *name = find_name(id, entry->d_name);
        if (name == NULL) {
            if (name_count == NAMES) give_up("too many names");
            name = &names[name_count++];
            name->directory = id;
            name->object = UINT64_MAX;
            strcpy(name->text, entry->d_name);
        }
        if (name->object != object_id) {
            name->object = object_id;
            record_name(LINKED, id, object_id, name->text);
        }
        name->seen = 1;
        if (is_new && directory) list_directory(object_id);
    }
    closedir(stream);
}

/* Records how the names differ from those that were seen last: what happened at once is one batch. */
static void list_names(void) {
    batch++;
    for (size_t i = 0; i < name_count; i++) names[i].seen = 0;
    uint64_t directories[OBJECTS];
    size_t count = 0;
    for (size_t i = 0; i < object_count; i++)
        if (objects[i].directory) directories[count++] = objects[i].id;
    for (size_t i = 0; i < count; i++) list_directory(directories[i]);
    for (size_t i = 0; i < object_count; i++) objects[i].named = objects[i].id == 0;
    for (size_t i = 0; i < name_count;) {
        if (names[i].seen) {
            struct object *object = by_id(names[i].object);
            if (object != NULL) object->named = 1;
            i++;
        } else {
            record_name(UNLINKED, names[i].directory, names[i].object, names[i].text);
            names[i] = names[--name_count];
        }
    }
    /* A file without a name cannot come back, and its inode's number may be given to another. */
    for (size_t i = 0; i < object_count;) {
        if (objects[i].named) i++;
        else objects[i] = objects[--object_count];
    }
}

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("VALETKEY_RECORD_ROOT");
    const char *into = getenv("VALETKEY_RECORD_JOURNAL");
    struct stat status;
    if (where == NULL || into == NULL) return;
    if (realpath(where, root) == NULL || stat(root, &status) != 0) give_up("there is no such directory");
    root_length = strlen(root);
    device = status.st_dev;
    int opened = (int)syscall(SYS_openat, AT_FDCWD, into, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    journal = fcntl(opened, F_DUPFD_CLOEXEC, 200);
    if (journal < 0) give_up("the journal cannot be opened");
    syscall(SYS_close, opened);
    strcpy(created(status.st_ino, 1)->path, root);
    list_names();
}

static int is_below(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == '\0');
}

/* The recorded object behind an open file, with the lock held; NULL and no lock for every other file. */
static struct object *take(int file) {
    struct stat status;
    if (journal < 0 || fstat(file, &status) != 0 || status.st_dev != device) return NULL;
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return NULL;
    pthread_mutex_lock(&lock);
    struct object *object = by_inode(status.st_ino);
    if (object == NULL && status.st_nlink > 0) {
        char link[64], path[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0) {
            path[length] = '\0';
            if (is_below(path)) {
                list_names();
                object = by_inode(status.st_ino);
            }
        }
    }
    if (object == NULL) pthread_mutex_unlock(&lock);
    return object;
}

/* Something was done to names: what came of it is recorded. The lock is held from before. */
static long after_names(long result) {
    int error = errno;
    if (journal >= 0) {
        list_names();
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return result;
}

static void before_names(void) {
    if (journal >= 0) pthread_mutex_lock(&lock);
}

static int opened(int directory, const char *path, int flags, mode_t mode) {
    if (journal < 0 || !(flags & (O_CREAT | O_TRUNC)))
        return (int)syscall(SYS_openat, directory, path, flags, mode);
    pthread_mutex_lock(&lock);
    int file = (int)syscall(SYS_openat, directory, path, flags, mode);
    int error = errno;
    struct stat status;
    if (file >= 0 && fstat(file, &status) == 0 && status.st_dev == device && S_ISREG(status.st_mode)) {
        list_names();
        struct object *object = by_inode(status.st_ino);
        if (object != NULL && (flags & O_TRUNC)) record(RESIZED, object->id, 0, NULL, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return file;
}

#define MODE_OF(flags, mode)                                         \
    mode_t mode = 0;                                                 \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                         \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        mode = (mode_t)va_arg(rest, int);                            \
        va_end(rest);                                                \
    }

int open(const char *path, int flags, ...) { MODE_OF(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int openat(int directory, const char *path, int flags, ...) { MODE_OF(flags, mode) return opened(directory, path, flags, mode); }
int openat64(int directory, const char *path, int flags, ...) { MODE_OF(flags, mode) return opened(directory, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* Data went to `object`, whose lock is held; `offset` is where, or -1 for where the file now stands. */
static ssize_t wrote(struct object *object, int file, const struct iovec *parts, int count, off64_t offset,
                     ssize_t result) {
    int error = errno;
    if (result > 0) {
        off64_t at = offset >= 0 ? offset : lseek64(file, 0, SEEK_CUR) - result;
        size_t left = (size_t)result;
        for (int i = 0; i < count && left > 0; i++) {
            size_t length = parts[i].iov_len < left ? parts[i].iov_len : left;
            record(object->marks ? MARKED : WRITTEN, object->id, (uint64_t)at, NULL, 0, parts[i].iov_base, length);
            at += (off64_t)length;
            left -= length;
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

ssize_t write(int file, const void *data, size_t length) {
    struct object *object = take(file);
    ssize_t result = syscall(SYS_write, file, data, length);
    struct iovec part = {(void *)data, length};
    return object == NULL ? result : wrote(object, file, &part, 1, -1, result);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    struct object *object = take(file);
    ssize_t result = syscall(SYS_writev, file, parts, count);
    return object == NULL ? result : wrote(object, file, parts, count, -1, result);
}

ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset) {
    struct object *object = take(file);
    ssize_t result = syscall(SYS_pwrite64, file, data, length, offset);
    struct iovec part = {(void *)data, length};
    return object == NULL ? result : wrote(object, file, &part, 1, offset, result);
}

ssize_t pwrite(int file, const void *data, size_t length, off_t offset) { return pwrite64(file, data, length, offset); }

ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t offset) {
    struct object *object = take(file);
    ssize_t result = syscall(SYS_pwritev, file, parts, count, (long)offset, (long)((uint64_t)offset >> 32));
    return object == NULL ? result : wrote(object, file, parts, count, offset, result);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(file, parts, count, offset);
}

/* The size of `object` may have changed; the lock is held. */
static int resized(struct object *object, int file, long result) {
    int error = errno;
    struct stat status;
    if (result == 0 && fstat(file, &status) == 0)
        record(RESIZED, object->id, (uint64_t)status.st_size, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return (int)result;
}

int ftruncate64(int file, off64_t length) {
    struct object *object = take(file);
    long result = syscall(SYS_ftruncate, file, length);
    return object == NULL ? (int)result : resized(object, file, result);
}

int ftruncate(int file, off_t length) { return ftruncate64(file, length); }

int fallocate64(int file, int mode, off64_t offset, off64_t length) {
    struct object *object = take(file);
    long result = syscall(SYS_fallocate, file, mode, offset, length);
    return object == NULL ? (int)result : resized(object, file, result);
}

int fallocate(int file, int mode, off_t offset, off_t length) { return fallocate64(file, mode, offset, length); }
int posix_fallocate64(int file, off64_t offset, off64_t length) { return fallocate64(file, 0, offset, length) == 0 ? 0 : errno; }
int posix_fallocate(int file, off_t offset, off_t length) { return posix_fallocate64(file, offset, length); }

static int synced(int file, long call) {
    struct object *object = take(file);
    if (object == NULL) return (int)syscall(call, file);
    uint64_t id = object->id;
    if (object->directory) list_names();
    int result = (int)syscall(call, file);
    int error = errno;
    if (result == 0) record(SYNCED, id, 0, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fsync(int file) { return synced(file, SYS_fsync); }
int fdatasync(int file) { return synced(file, SYS_fdatasync); }

int unlinkat(int directory, const char *path, int flags) {
    before_names();
    return (int)after_names(syscall(SYS_unlinkat, directory, path, flags));
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned int flags) {
    before_names();
    return (int)after_names(syscall(SYS_renameat2, from_directory, from, to_directory, to, flags));
}

int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    return renameat2(from_directory, from, to_directory, to, 0);
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    before_names();
    return (int)after_names(syscall(SYS_linkat, from_directory, from, to_directory, to, flags));
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int mkdirat(int directory, const char *path, mode_t mode) {
    before_names();
    return (int)after_names(syscall(SYS_mkdirat, directory, path, mode));
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
