// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "crew.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Batches follow each other within a millisecond, and waking a thread that sleeps takes tens
 * of microseconds: so a thread looks for more for about as long before it sleeps.
 */
#define SPINS 1000

struct member {
	struct crew *crew;
	pthread_t thread;
	uint32_t part;
};

struct crew {
	_Atomic uint32_t turn;		/* number of the work at hand */
	_Atomic uint32_t working;	/* threads that are not done with it */
	crew_work *work;		/* NULL: go home */
	void *argument;
	uint32_t others;		/* threads beside the caller */
	uint32_t parts;
	pid_t home;			/* the threads' process: a child of it has none of them */
	struct member members[];
};

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
	syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Wait while @word is @value. */
static void wait_while(_Atomic uint32_t *word, uint32_t value)
{
	uint32_t i;

	for (i = 0; i < SPINS; i++) {
		if (atomic_load_explicit(word, memory_order_acquire) != value)
			return;
		relax();
	}
	while (atomic_load_explicit(word, memory_order_acquire) == value)
		futex(word, FUTEX_WAIT, value);
}

static void *take_part(void *argument)
{
	struct member *me = argument;
	struct crew *crew = me->crew;
	uint32_t turn = 0;

	for (;;) {
		wait_while(&crew->turn, turn++);
		if (!crew->work)
			return NULL;
		crew->work(crew->argument, me->part);
		if (atomic_fetch_sub_explicit(&crew->working, 1, memory_order_acq_rel) == 1)
			futex(&crew->working, FUTEX_WAKE, 1);
	}
}

static void begin(struct crew *crew, crew_work *work, void *argument)
{
	crew->work = work;
	crew->argument = argument;
	atomic_store_explicit(&crew->working, crew->others, memory_order_relaxed);
	atomic_fetch_add_explicit(&crew->turn, 1, memory_order_release);
	futex(&crew->turn, FUTEX_WAKE, crew->others);
}

struct crew *crew_new(uint32_t parts)
{
	struct crew *crew = calloc(1, sizeof(*crew) + parts * sizeof(crew->members[0]));
	sigset_t all, before;
	uint32_t i;

	if (!crew)
		return NULL;
	crew->parts = parts;
	crew->home = getpid();
	/* signals are for the threads that Python knows */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (i = 0; i + 1 < parts; i++) {
		struct member *member = &crew->members[i];

		*member = (struct member){ .crew = crew, .part = i + 1 };
		if (pthread_create(&member->thread, NULL, take_part, member))
			break;
		crew->others++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (crew->others + 1 < parts) {
		crew_free(crew);
		return NULL;
	}
	return crew;
}

void crew_free(struct crew *crew)
{
	uint32_t i;

	if (crew->home == getpid()) {
		begin(crew, NULL, NULL);
		for (i = 0; i < crew->others; i++)
			pthread_join(crew->members[i].thread, NULL);
	}
	free(crew);
}

void crew_run(struct crew *crew, crew_work *work, void *argument)
{
	uint32_t working, part;

	if (!crew->others || crew->home != getpid()) {
		for (part = 0; part < crew->parts; part++)
			work(argument, part);
		return;
	}
	begin(crew, work, argument);
	work(argument, 0);
	while ((working = atomic_load_explicit(&crew->working, memory_order_acquire)))
		wait_while(&crew->working, working);
}
