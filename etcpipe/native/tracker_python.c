// SPDX-License-Identifier: Apache-2.0
/* The flow tracker for Python; etcpipe/capture.py is its only caller. */
#include "native.h"
#include "tracker.h"

struct tracker *tracker_from(PyObject *capsule)
{
	return PyCapsule_GetPointer(capsule, TRACKER_CAPSULE);
}

static void destroy(PyObject *capsule)
{
	tracker_free(tracker_from(capsule));
}

static PyObject *new_tracker(PyObject *self, PyObject *args)
{
	unsigned long long establish_ns, idle_ns, tombstone_ns;
	struct tracker_settings settings = {};
	struct tracker *t;
	PyObject *capsule;

	(void)self;
	if (!PyArg_ParseTuple(args, "III(KKK)III", &settings.first_n, &settings.count_rule,
			      &settings.flows_max, &establish_ns, &idle_ns, &tombstone_ns,
			      &settings.sample_every, &settings.sample_seed,
			      &settings.parse))
		return NULL;
	settings.timeouts.establish_ns = establish_ns;
	settings.timeouts.idle_ns = idle_ns;
	settings.timeouts.tombstone_ns = tombstone_ns;
	t = tracker_new(&settings);
	if (!t)
		return PyErr_NoMemory();
	capsule = PyCapsule_New(t, TRACKER_CAPSULE, destroy);
	if (!capsule)
		tracker_free(t);
	return capsule;
}

static PyObject *counters(PyObject *self, PyObject *capsule)
{
	struct tracker *t = tracker_from(capsule);
	PyObject *list;
	int i;

	(void)self;
	if (!t)
		return NULL;
	list = PyList_New(N_PACKET_COUNTERS);
	for (i = 0; list && i < N_PACKET_COUNTERS; i++) {
		PyObject *n = PyLong_FromUnsignedLongLong(tracker_counters(t)[i]);

		if (!n || PyList_SetItem(list, i, n)) {
			Py_DECREF(list);
			return NULL;
		}
	}
	return list;
}

static PyObject *status(PyObject *self, PyObject *capsule)
{
	struct tracker *t = tracker_from(capsule);

	(void)self;
	if (!t)
		return NULL;
	return Py_BuildValue("(KKK)", (unsigned long long)tracker_flows(t),
			     (unsigned long long)tracker_ended(t),
			     (unsigned long long)tracker_clock_ns(t));
}

typedef size_t (*taker)(struct tracker *t, struct flow_record *records, size_t n);

static PyObject *take_by(PyObject *args, taker take)
{
	unsigned long long address;
	PyObject *capsule;
	struct tracker *t;
	Py_ssize_t n;
	size_t taken;

	if (!PyArg_ParseTuple(args, "OKn", &capsule, &address, &n))
		return NULL;
	t = tracker_from(capsule);
	if (!t)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	taken = take(t, (struct flow_record *)(uintptr_t)address, n);
	Py_END_ALLOW_THREADS
	return PyLong_FromSize_t(taken);
}

static PyObject *take(PyObject *self, PyObject *args)
{
	(void)self;
	return take_by(args, tracker_take);
}

static PyObject *finish(PyObject *self, PyObject *args)
{
	(void)self;
	return take_by(args, tracker_finish);
}

static void look_up(const struct tracker *t, const struct flow_key *keys, const uint64_t *flow_ids,
		    struct flow_state *states, Py_ssize_t n)
{
	Py_ssize_t i;

	for (i = 0; i < n; i++) {
		const struct flow_state *flow = tracker_find(t, &keys[i]);

		if (flow && flow->flow_id == flow_ids[i])
			states[i] = *flow;
	}
}

static PyObject *states(PyObject *self, PyObject *args)
{
	unsigned long long keys, flow_ids, out;
	PyObject *capsule;
	struct tracker *t;
	Py_ssize_t n;

	(void)self;
	if (!PyArg_ParseTuple(args, "OKKKn", &capsule, &keys, &flow_ids, &out, &n))
		return NULL;
	t = tracker_from(capsule);
	if (!t)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	look_up(t, (void *)(uintptr_t)keys, (void *)(uintptr_t)flow_ids, (void *)(uintptr_t)out, n);
	Py_END_ALLOW_THREADS
	Py_RETURN_NONE;
}

PyMethodDef tracker_methods[] = {
	{ "tracker_new", new_tracker, METH_VARARGS,
	  "tracker_new(first_n, count_rule, flows_max, (establish_ns, idle_ns, tombstone_ns), "
	  "sample_every, sample_seed, parse) -> tracker" },
	{ "tracker_counters", counters, METH_O, "tracker_counters(tracker) -> list by packet_counter" },
	{ "tracker_status", status, METH_O, "tracker_status(tracker) -> (flows, ended, clock_ns)" },
	{ "tracker_take", take, METH_VARARGS,
	  "tracker_take(tracker, flow_records, n) -> how many ended flows were written" },
	{ "tracker_finish", finish, METH_VARARGS,
	  "tracker_finish(tracker, flow_records, n) -> how many; ends the table's flows too" },
	{ "tracker_states", states, METH_VARARGS,
	  "tracker_states(tracker, flow_keys, flow_ids, flow_states, n); states start as zeros" },
	{ NULL, NULL, 0, NULL },
};
