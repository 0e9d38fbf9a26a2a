/* SPDX-License-Identifier: Apache-2.0 */
/* What the steps of rows through a cascade have in common; see cascade.h. */
#ifndef ETCPIPE_CASCADE_STEP_H
#define ETCPIPE_CASCADE_STEP_H

#include <stdint.h>

#include "etcpipe.h"
#include "cascade.h"

#define AHEAD 8			/* rows, of which memory is asked for before their turn */

typedef struct cascade_state state_t;

/* A call's arguments: rows are at these places, in this order. */
struct step {
	struct cascade_flows *flows;
	struct cascade_pool *pool;
	const uint64_t *places;
	uint64_t n;
};

/* Give back the place of a row that left; what lies there stays until another row is put in. */
static inline void free_place(struct cascade_pool *pool, uint64_t place)
{
	((uint64_t *)(uintptr_t)pool->free)[pool->n_free++] = place;
}

static inline state_t *state_at(const struct step *step, uint64_t i)
{
	return (state_t *)(uintptr_t)step->pool->state + step->places[i];
}

static inline uint8_t depth_at(const struct step *step, uint64_t i)
{
	return ((const uint8_t *)(uintptr_t)step->pool->depth)[step->places[i]];
}

static inline uint64_t flow_at(const struct step *step, uint64_t i)
{
	return ((const uint64_t *)(uintptr_t)step->pool->flow_id)[step->places[i]];
}

static inline uint16_t depth_of(const struct step *step, uint8_t stage)
{
	return ((const uint16_t *)(uintptr_t)step->flows->depths)[stage];
}

static inline state_t *slot_of(const struct step *step, uint64_t flow_id)
{
	return (state_t *)(uintptr_t)step->flows->states + flow_id % step->flows->slots;
}

static inline void look_ahead(const struct step *step, uint64_t i)
{
	if (i + AHEAD < step->n)
		__builtin_prefetch(slot_of(step, flow_at(step, i + AHEAD)));
}

static inline struct step step_of(unsigned long long flows, unsigned long long pool,
			   unsigned long long places, unsigned long long n)
{
	return (struct step){ (struct cascade_flows *)(uintptr_t)flows,
			      (struct cascade_pool *)(uintptr_t)pool,
			      (const uint64_t *)(uintptr_t)places, n };
}

#endif /* ETCPIPE_CASCADE_STEP_H */
