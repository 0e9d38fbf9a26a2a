// SPDX-License-Identifier: Apache-2.0
/* Verdicts of answered rows, which then leave the pool; etcpipe/cascade/steps.py defines them. */
#include "native.h"

#include "cascade_step.h"

#include <stdbool.h>

/* Stores how long a row's packets were waited for; returns false if it has no packets. */
static bool waited(const struct cascade_pool *pool, uint64_t place, __u64 *wait_ns)
{
	const struct packet_fields *packets = (const void *)(uintptr_t)pool->packets;
	const uint64_t ready_ns = ((const uint64_t *)(uintptr_t)pool->ready_ns)[place];
	uint64_t rank;

	*wait_ns = 0;
	packets += place * pool->ranks;
	for (rank = 0; rank < pool->ranks && !packets[rank].present; rank++)
		;
	if (rank == pool->ranks)
		return false;
	if ((int64_t)(ready_ns - packets[rank].timestamp_ns) > 0)
		*wait_ns = ready_ns - packets[rank].timestamp_ns;
	return true;
}

/* Writes the verdicts of rows. @source: what led to them; negative: see each row's reason. */
static void put_verdicts(const struct step *step, uint64_t now_ns, int event, int revised,
			 int source, struct cascade_verdict *verdicts)
{
	const uint8_t *reasons = (const uint8_t *)(uintptr_t)step->pool->reason;
	const uint8_t *sources = (const uint8_t *)(uintptr_t)step->flows->sources;
	const uint64_t *ready_ns = (const uint64_t *)(uintptr_t)step->pool->ready_ns;
	uint64_t i;

	for (i = 0; i < step->n; i++) {
		const uint64_t at = step->places[i];
		const state_t *state = state_at(step, i);
		struct cascade_verdict *one = verdicts + i;
		bool is_empty = !waited(step->pool, at, &one->wait_ns);
		int64_t queue_ns = now_ns - ready_ns[at] - state->infer_ns;
		bool is_other = state->told != CASCADE_NOT_TOLD && state->told != state->label;

		one->queue_ns = queue_ns > 0 ? queue_ns : 0;
		one->infer_ns = state->infer_ns;
		one->probability = state->probability;
		one->label = state->label;
		one->runner_up = state->runner_up;
		one->depth = depth_of(step, state->stage);
		one->packets_used = state->packets_used;
		one->stage = state->stage;
		one->event = is_other ? revised : event;
		one->source = source >= 0 ? source :
					    sources[is_empty ? step->flows->reasons : reasons[at]];
		one->pad = 0;
	}
}

/* Forgets flows that have their answer, and their rows; returns how many of them go on. */
static uint64_t leave(const struct step *step, uint64_t *left)
{
	uint64_t i, n = 0;

	for (i = 0; i < step->n; i++) {
		uint64_t flow_id = flow_at(step, i);
		state_t *slot = slot_of(step, flow_id);

		look_ahead(step, i);
		if (slot->flow_id == flow_id)
			slot->status = CASCADE_DONE;
		if (depth_at(step, i))
			left[n++] = flow_id;
		free_place(step->pool, step->places[i]);
	}
	return n;
}

static PyObject *py_verdicts(PyObject *module, PyObject *args)
{
	unsigned long long flows, pool, places, n, now_ns, verdicts;
	int event, revised, source;
	struct step step;

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKKKiiiK", &flows, &pool, &places, &n, &now_ns, &event,
			      &revised, &source, &verdicts))
		return NULL;
	step = step_of(flows, pool, places, n);
	put_verdicts(&step, now_ns, event, revised, source,
		     (struct cascade_verdict *)(uintptr_t)verdicts);
	Py_RETURN_NONE;
}

static PyObject *py_leave(PyObject *module, PyObject *args)
{
	unsigned long long flows, pool, places, n, left;
	struct step step;

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKKK", &flows, &pool, &places, &n, &left))
		return NULL;
	step = step_of(flows, pool, places, n);
	return PyLong_FromUnsignedLongLong(leave(&step, (uint64_t *)(uintptr_t)left));
}

PyMethodDef cascade_verdict_methods[] = {
	{ "cascade_verdicts", py_verdicts, METH_VARARGS,
	  "cascade_verdicts(flows, pool, places, n, now_ns, event, revised, source, verdicts)" },
	{ "cascade_leave", py_leave, METH_VARARGS,
	  "cascade_leave(flows, pool, places, n, left) -> flows that go on" },
	{ NULL, NULL, 0, NULL },
};
