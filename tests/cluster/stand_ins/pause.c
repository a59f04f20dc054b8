#include <signal.h>
#include <unistd.h>

/* Sleeps until it is told to end: the first process of a pod. */
int main(void) {
    signal(SIGTERM, _exit);
    for (;;) pause();
}
