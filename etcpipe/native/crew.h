/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that do the same work on parts of it, as often as they are told to. */
#ifndef ETCPIPE_CREW_H
#define ETCPIPE_CREW_H

#include <stdint.h>

struct crew;

/* What each of them does; the caller of crew_run() has part 0. */
typedef void crew_work(void *argument, uint32_t part);

/* Start @parts - 1 threads. NULL: no memory, or no more threads. */
struct crew *crew_new(uint32_t parts);
void crew_free(struct crew *crew);
/* Do all parts at the same time; return when all are done. For one caller at a time. */
void crew_run(struct crew *crew, crew_work *work, void *argument);

#endif /* ETCPIPE_CREW_H */
