// SPDX-License-Identifier: Apache-2.0
/* Regrouping for gpu/regroup_native.py, which keeps all arrays alive. */
#include "array.h"
#include "shards.h"

#define CAPSULE "etcpipe._native.regroup"
#define ADDRESS(number) ((void *)(uintptr_t)(number))

static void destroy(PyObject *capsule)
{
	shards_free(PyCapsule_GetPointer(capsule, CAPSULE));
}

static PyObject *py_new(PyObject *module, PyObject *args)
{
	unsigned long long wait_ns, grace_ns, early;
	struct regroup_settings set = { 0 };
	struct shards *s;
	PyObject *capsule;
	int mask;

	(void)module;
	if (!PyArg_ParseTuple(args, "IIIIKKIiIKI", &set.first_n, &set.raw_len, &set.slots,
			      &set.max_rows, &wait_ns, &grace_ns, &set.expire_max,
			      &mask, &set.parse, &early, &set.shards))
		return NULL;
	if (set.first_n < 1 || set.first_n > FIRST_N_MAX || set.raw_len > UINT16_MAX ||
	    !set.slots || !set.max_rows || mask < 0 || mask >= N_MASKS ||
	    set.shards < 1 || set.shards > SHARDS_MAX) {
		PyErr_SetString(PyExc_ValueError, "regroup_new: setting out of range");
		return NULL;
	}
	set.wait_ns = wait_ns;
	set.grace_ns = grace_ns;
	set.mask = mask;
	set.early = early;
	s = shards_new(&set);
	if (!s)
		return PyErr_NoMemory();
	capsule = PyCapsule_New(s, CAPSULE, destroy);
	if (!capsule)
		shards_free(s);
	return capsule;
}

#define COLUMN(name) { #name, sizeof(*((struct packet_columns *)0)->name) }

static const struct column {
	const char *name;
	int item_size;
} COLUMNS[] = {
	COLUMN(offset), COLUMN(captured), COLUMN(wire_len), COLUMN(timestamp_ns), COLUMN(flow_id),
	COLUMN(rank), COLUMN(direction), COLUMN(vlan), COLUMN(segment_len), COLUMN(ifindex),
};

#define N_COLUMNS (sizeof(COLUMNS) / sizeof(*COLUMNS))

_Static_assert(sizeof(struct packet_columns) == N_COLUMNS * sizeof(void *), "a name each");

/* Find the columns of a list, in order. Returns packets, or -1 with a Python error set. */
static Py_ssize_t find_columns(PyObject *list, struct packet_columns *columns)
{
	struct array first;
	size_t i;

	if (PyList_Size(list) != N_COLUMNS) {
		PyErr_Format(PyExc_ValueError, "a list of %zu columns", N_COLUMNS);
		return -1;
	}
	if (array_find(PyList_GetItem(list, 0), &first))
		return -1;
	for (i = 0; i < N_COLUMNS; i++) {
		void *numbers = array_of_unsigned(PyList_GetItem(list, i), COLUMNS[i].name,
						  COLUMNS[i].item_size, first.shape[0]);

		if (!numbers)
			return -1;
		((void **)columns)[i] = numbers;
	}
	return first.shape[0];
}

/* regroup_add(capsule, memory, columns, link type, now) -> rows closed */
static PyObject *py_add(PyObject *module, PyObject *args)
{
	PyObject *capsule, *memory, *list;
	struct packet_columns columns;
	struct packet_batch batch;
	unsigned long long now;
	struct array bytes;
	Py_ssize_t packets;
	struct shards *s;
	int64_t closed;

	(void)module;
	if (!PyArg_ParseTuple(args, "OOO!iK", &capsule, &memory, &PyList_Type, &list,
			      &batch.link_type, &now))
		return NULL;
	s = PyCapsule_GetPointer(capsule, CAPSULE);
	if (!s || array_find(memory, &bytes))
		return NULL;
	batch.memory_len = bytes.shape[0];
	batch.memory = array_of_unsigned(memory, "memory", 1, batch.memory_len);
	packets = batch.memory ? find_columns(list, &columns) : -1;
	if (packets < 0)
		return NULL;
	batch.packets = packets;
	batch.columns = &columns;
	Py_BEGIN_ALLOW_THREADS
	closed = shards_add(s, &batch, now);
	Py_END_ALLOW_THREADS
	return closed < 0 ? PyErr_NoMemory() : PyLong_FromLongLong(closed);
}

/* regroup_expire(capsule, now) -> rows closed */
static PyObject *py_expire(PyObject *module, PyObject *args)
{
	unsigned long long now;
	PyObject *capsule;
	struct shards *s;

	(void)module;
	if (!PyArg_ParseTuple(args, "OK", &capsule, &now))
		return NULL;
	s = PyCapsule_GetPointer(capsule, CAPSULE);
	if (!s)
		return NULL;
	return PyLong_FromLongLong(shards_expire(s, now));
}

/* regroup_flush(capsule) -> rows closed */
static PyObject *py_flush(PyObject *module, PyObject *capsule)
{
	struct shards *s = PyCapsule_GetPointer(capsule, CAPSULE);

	(void)module;
	if (!s)
		return NULL;
	return PyLong_FromLongLong(shards_flush(s));
}

/* regroup_leave(capsule, flow ids, flows) */
static PyObject *py_leave(PyObject *module, PyObject *args)
{
	unsigned long long flow_id;
	PyObject *capsule;
	unsigned int flows;
	struct shards *s;

	(void)module;
	if (!PyArg_ParseTuple(args, "OKI", &capsule, &flow_id, &flows))
		return NULL;
	s = PyCapsule_GetPointer(capsule, CAPSULE);
	if (!s)
		return NULL;
	shards_leave(s, ADDRESS(flow_id), flows);
	Py_RETURN_NONE;
}

/* regroup_early(capsule) -> early rows that are there */
static PyObject *py_early(PyObject *module, PyObject *capsule)
{
	struct shards *s = PyCapsule_GetPointer(capsule, CAPSULE);

	(void)module;
	return s ? PyLong_FromLongLong(shards_early(s)) : NULL;
}

static PyObject *take(PyObject *args, void (*rows)(struct shards *, const struct flow_columns *))
{
	unsigned long long columns;
	PyObject *capsule;
	struct shards *s;

	if (!PyArg_ParseTuple(args, "OK", &capsule, &columns))
		return NULL;
	s = PyCapsule_GetPointer(capsule, CAPSULE);
	if (!s)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	rows(s, ADDRESS(columns));
	Py_END_ALLOW_THREADS
	Py_RETURN_NONE;
}

/* regroup_take(capsule, columns) with room for all rows that are closed */
static PyObject *py_take(PyObject *module, PyObject *args)
{
	(void)module;
	return take(args, shards_take);
}

/* regroup_take_early(capsule, columns) with room for all rows of regroup_early() */
static PyObject *py_take_early(PyObject *module, PyObject *args)
{
	(void)module;
	return take(args, shards_take_early);
}

/* regroup_counters(capsule) -> (counters in order, pending flows) */
static PyObject *py_counters(PyObject *module, PyObject *capsule)
{
	struct shards *s = PyCapsule_GetPointer(capsule, CAPSULE);
	PyObject *counters;
	int i;

	(void)module;
	if (!s)
		return NULL;
	counters = PyList_New(N_REGROUP_COUNTERS);
	for (i = 0; counters && i < N_REGROUP_COUNTERS; i++) {
		PyObject *value = PyLong_FromUnsignedLongLong(shards_counter(s, i));

		if (!value || PyList_SetItem(counters, i, value)) {
			Py_DECREF(counters);
			return NULL;
		}
	}
	return Py_BuildValue("(NI)", counters, shards_pending(s));
}

PyMethodDef regroup_methods[] = {
	{ "regroup_new", py_new, METH_VARARGS, "A regroup; see etcpipe.gpu.regroup_native." },
	{ "regroup_add", py_add, METH_VARARGS, "Take a batch; return how many rows are closed." },
	{ "regroup_expire", py_expire, METH_VARARGS, "Close idle rows; return how many are closed." },
	{ "regroup_flush", py_flush, METH_O, "Close all rows; return how many are closed." },
	{ "regroup_leave", py_leave, METH_VARARGS, "Forget flows that had their answer." },
	{ "regroup_early", py_early, METH_O, "How many early rows there are." },
	{ "regroup_take_early", py_take_early, METH_VARARGS, "Copy early rows into arrays." },
	{ "regroup_take", py_take, METH_VARARGS, "Move closed rows into arrays." },
	{ "regroup_counters", py_counters, METH_O, "Counters in order, and pending flows." },
	{ NULL, NULL, 0, NULL },
};
