/* Loaded before libc where instructions are counted: the two things that still differ from run to run. The standard
   library seeds its hash maps with getrandom, and their order decides what memory is freed first; hyper writes its date
   anew when the wall clock's second changes. */
#include <string.h>
#include <sys/types.h>
#include <time.h>

ssize_t getrandom(void *buffer, size_t length, unsigned int flags) {
    (void)flags;
    memset(buffer, 7, length);
    return (ssize_t)length;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static long calls;
    now->tv_sec = 1700000000;
    now->tv_nsec = 0;
    if (clock != CLOCK_REALTIME) {
        calls += 1;
        now->tv_sec += calls / 1000000;
        now->tv_nsec = calls % 1000000 * 1000;
    }
    return 0;
}
