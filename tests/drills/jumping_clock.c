// A clock of the calendar that jumps by years several times a second; to be loaded before the C library
// (LD_PRELOAD). Clocks that only run forwards, by which programs measure and wait, are left alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>

static int real_time(clockid_t clock, struct timespec* time) {
  static int (*next)(clockid_t, struct timespec*);
  if (!next) next = (int (*)(clockid_t, struct timespec*))dlsym(RTLD_NEXT, "clock_gettime");
  return next(clock, time);
}

static time_t jump(void) {
  static const int years[] = {0, 1, -10, 0, 5, -1};
  struct timespec now;
  real_time(CLOCK_MONOTONIC, &now);
  const long long turn = (now.tv_sec * 1000LL + now.tv_nsec / 1000000) / 170;
  // Not whole years: the day of the month is to change as well.
  return years[turn % 6] * 363L * 86400;
}

int clock_gettime(clockid_t clock, struct timespec* time) {
  const int status = real_time(clock, time);
  if (!status && clock == CLOCK_REALTIME) time->tv_sec += jump();
  return status;
}

int gettimeofday(struct timeval* restrict result, void* restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  result->tv_sec = now.tv_sec;
  result->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}
