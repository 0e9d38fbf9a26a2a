// SPDX-License-Identifier: Apache-2.0
/*
 * The steps of rows through the stages of a cascade; etcpipe/cascade/steps.py defines them, and
 * says what is meant. Here a step of a whole batch is one call, and no object is made for a row.
 */
#include "native.h"

#include "cascade_step.h"

#include <stdbool.h>
#include <string.h>

/* Lists of places, one behind the other in an array with room for all of them. */
struct lists {
	uint64_t *places;
	uint64_t *counts;
};

/* What place() makes of a row, as etcpipe/cascade/steps_native.py reads it. */
enum { ASIDE, REFUSED, SKIPPED, NOWHERE, TO_STAGES };

static bool is_awaited(const struct step *step, uint64_t flow_id)
{
	const state_t *slot = slot_of(step, flow_id);

	return slot->flow_id == flow_id && slot->status == CASCADE_QUEUED;
}

/* FlowStates.put() */
static void keep(const struct step *step, const state_t *state)
{
	state_t *slot = slot_of(step, state->flow_id);

	if (slot->flow_id != state->flow_id &&
	    (slot->status == CASCADE_WAITING || slot->status == CASCADE_QUEUED))
		++*(uint64_t *)(uintptr_t)step->flows->forgotten;
	if (slot->flow_id <= state->flow_id)
		*slot = *state;
}

/* Returns the number of the list that a row goes to, and stores its flow's state with it. */
static int destination(const struct step *step, uint64_t i, uint64_t *room)
{
	static const state_t blank = { .label = -1, .runner_up = -1, .told = CASCADE_NOT_TOLD,
				       .stage = CASCADE_NO_STAGE };
	const uint8_t depth = depth_at(step, i);
	const uint64_t flow_id = flow_at(step, i);
	const state_t *slot = slot_of(step, flow_id);
	state_t *state = state_at(step, i);

	*state = slot->flow_id == flow_id ? *slot : blank;
	state->flow_id = flow_id;
	if (state->status == CASCADE_QUEUED)
		return ASIDE;
	if (state->status == CASCADE_WAITING)
		return depth && depth < depth_of(step, state->next) ? NOWHERE :
								       TO_STAGES + state->next;
	if (state->status == CASCADE_DONE ||
	    (depth && (slot->flow_id > flow_id || depth < depth_of(step, 0))))
		return NOWHERE;
	state->next = 0;
	if (*room) {
		--*room;
		return TO_STAGES;
	}
	state->stage = 0;
	return depth ? SKIPPED : REFUSED;
}

static void place(const struct step *step, uint64_t room, uint8_t *to, uint64_t *counts)
{
	uint64_t i;
	int goes;

	for (i = 0; i < step->n; i++) {
		look_ahead(step, i);
		goes = destination(step, i, &room);
		if (goes >= TO_STAGES && depth_at(step, i)) {
			state_at(step, i)->status = CASCADE_QUEUED;
			keep(step, state_at(step, i));
		} else if (goes == NOWHERE || goes == SKIPPED) {
			free_place(step->pool, step->places[i]);
		}
		if (goes >= TO_STAGES) {	/* two lists a stage: of flows that go on, and over */
			const uint8_t *reasons = (const uint8_t *)(uintptr_t)step->pool->reason;
			uint8_t reason = reasons[step->places[i]];

			goes = TO_STAGES + 2 * (goes - TO_STAGES);
			goes += !depth_at(step, i) && (reason == READY_IDLE || reason == READY_END);
		}
		to[i] = goes;
		counts[goes]++;
	}
}

/* Puts places into their lists, which lie in the order of their numbers. */
static void sort_out(const struct step *step, const uint8_t *to, uint64_t n_lists,
		     const struct lists *lists)
{
	uint64_t next[TO_STAGES + 2 * CASCADE_NO_STAGE], at = 0, i;

	for (i = 0; i < n_lists; i++) {
		next[i] = at;
		at += lists->counts[i];
	}
	for (i = 0; i < step->n; i++)
		lists->places[next[to[i]]++] = step->places[i];
}

/* What a stage said of a row, with its share of the batch's time. */
static void note(state_t *state, const struct cascade_said *said, uint8_t stage, uint64_t took_ns)
{
	state->probability = said->probability;
	state->label = said->label;
	state->runner_up = said->runner_up;
	state->packets_used = said->packets_used;
	state->stage = stage;
	state->infer_ns += took_ns;
}

/* An unsure row's way; returns whether the next stage takes it at once. */
static bool goes_on(const struct step *step, uint64_t i)
{
	state_t *state = state_at(step, i);
	const uint8_t depth = depth_at(step, i);

	state->next = state->stage + 1;
	if (depth && depth < depth_of(step, state->next)) {
		state->status = CASCADE_WAITING;
		keep(step, state);
		free_place(step->pool, step->places[i]);
		return false;
	}
	if (depth) {
		state->status = CASCADE_QUEUED;
		keep(step, state);
	}
	return true;
}

/* Three lists: of rows that are answered, those that go on at once, those that are told early. */
static void answer(const struct step *step, const struct cascade_said *said, uint8_t stage,
		   uint64_t took_ns, const struct lists *lists)
{
	uint64_t *finished = lists->places, *at_once = finished + step->n;
	uint64_t *told = at_once + step->n, i;

	for (i = 0; i < step->n; i++) {
		state_t *state = state_at(step, i);

		look_ahead(step, i);
		if (depth_at(step, i) && !is_awaited(step, flow_at(step, i))) {	/* forgotten */
			free_place(step->pool, step->places[i]);
			continue;
		}
		note(state, said + i, stage, took_ns);
		if (said[i].sure) {
			finished[lists->counts[0]++] = step->places[i];
			continue;
		}
		if (step->flows->tell_early && state->told == CASCADE_NOT_TOLD) {
			state->told = state->label;
			told[lists->counts[2]++] = step->places[i];
		}
		if (goes_on(step, i))
			at_once[lists->counts[1]++] = step->places[i];
	}
}

static PyObject *py_place(PyObject *module, PyObject *args)
{
	unsigned long long flows, pool, places, n, room, to, out, counts;
	struct lists lists;
	struct step step;

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKKKKKK", &flows, &pool, &places, &n, &room, &to, &out,
			      &counts))
		return NULL;
	step = step_of(flows, pool, places, n);
	lists = (struct lists){ (uint64_t *)(uintptr_t)out, (uint64_t *)(uintptr_t)counts };
	memset(lists.counts, 0, sizeof(*lists.counts) * (TO_STAGES + 2 * step.flows->stages));
	place(&step, room, (uint8_t *)(uintptr_t)to, lists.counts);
	sort_out(&step, (const uint8_t *)(uintptr_t)to, TO_STAGES + 2 * step.flows->stages, &lists);
	Py_RETURN_NONE;
}

static PyObject *py_answer(PyObject *module, PyObject *args)
{
	unsigned long long flows, pool, places, n, said, took_ns, out, counts;
	unsigned char stage;
	struct lists lists;
	struct step step;

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKKKbKKK", &flows, &pool, &places, &n, &said, &stage,
			      &took_ns, &out, &counts))
		return NULL;
	step = step_of(flows, pool, places, n);
	lists = (struct lists){ (uint64_t *)(uintptr_t)out, (uint64_t *)(uintptr_t)counts };
	memset(lists.counts, 0, 3 * sizeof(*lists.counts));
	answer(&step, (const struct cascade_said *)(uintptr_t)said, stage, took_ns, &lists);
	Py_RETURN_NONE;
}

PyMethodDef cascade_methods[] = {
	{ "cascade_place", py_place, METH_VARARGS,
	  "cascade_place(flows, pool, places, n, room, to, lists, counts): addresses; see "
	  "etcpipe.cascade.steps_native." },
	{ "cascade_answer", py_answer, METH_VARARGS,
	  "cascade_answer(flows, pool, places, n, said, stage, took_ns, lists, counts)" },
	{ NULL, NULL, 0, NULL },
};
