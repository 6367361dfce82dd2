/*
 * Shows a program another wall clock. Preloaded; the clocks that do not step are left alone.
 *
 * The file named by FENCEPOST_WALL_CLOCK has a count and two pairs: by how many microseconds the clock is off, and at
 * which microsecond of the epoch it stands still (0: it does not). The pair in force is the one of the count's last bit,
 * so that it changes at once and as a whole: the writer fills the other one, then counts. No call here takes a lock,
 * allocates, or opens anything after the program's start.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct pair {
    int64_t offset;
    int64_t stopped;
};

struct cells {
    uint64_t count;
    struct pair pairs[2];
};

static const volatile struct cells *cells;

__attribute__((constructor)) static void open_cells(void)
{
    const char *path = getenv("FENCEPOST_WALL_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *map = mmap(NULL, sizeof *cells, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED)
        cells = map;
}

static struct pair in_force(void)
{
    struct pair pair = {0, 0};
    uint64_t count;
    if (!cells)
        return pair;
    do {
        count = __atomic_load_n(&cells->count, __ATOMIC_ACQUIRE);
        pair.offset = __atomic_load_n(&cells->pairs[count & 1].offset, __ATOMIC_RELAXED);
        pair.stopped = __atomic_load_n(&cells->pairs[count & 1].stopped, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    } while (count != __atomic_load_n(&cells->count, __ATOMIC_RELAXED));
    return pair;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return failed;
    struct pair pair = in_force();
    if (!pair.offset && !pair.stopped)
        return 0;
    int64_t micros = pair.stopped ? pair.stopped : now->tv_sec * INT64_C(1000000) + now->tv_nsec / 1000 + pair.offset;
    if (micros < 0)
        micros = 0;
    now->tv_sec = micros / 1000000;
    now->tv_nsec = micros % 1000000 * 1000 + (pair.stopped ? 0 : now->tv_nsec % 1000);
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec precise;
    time_t now = clock_gettime(CLOCK_REALTIME, &precise) ? (time_t)-1 : precise.tv_sec;
    if (at)
        *at = now;
    return now;
}
