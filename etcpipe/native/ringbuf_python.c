// SPDX-License-Identifier: Apache-2.0
/* The ring buffer for Python; etcpipe/ringbuf.py is the only caller, and keeps the mappings. */
#include "native.h"

#include <stdlib.h>

#include "ringbuf.h"
#include "xsk.h"

#define RINGBUF_CAPSULE "etcpipe.ringbuf"

static void destroy(PyObject *capsule)
{
	free(PyCapsule_GetPointer(capsule, RINGBUF_CAPSULE));
}

static PyObject *open_ringbuf(PyObject *self, PyObject *args)
{
	unsigned long long consumer, memory, data_offset, size;
	PyObject *capsule;
	struct ringbuf *r;

	(void)self;
	if (!PyArg_ParseTuple(args, "KKKK", &consumer, &memory, &data_offset, &size))
		return NULL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return PyErr_NoMemory();
	r->consumer = (uint64_t *)(uintptr_t)consumer;
	r->producer = (const uint64_t *)(uintptr_t)memory;
	r->data = (const uint8_t *)(uintptr_t)memory + data_offset;
	r->data_offset = data_offset;
	r->mask = size - 1;
	r->next = __atomic_load_n(r->consumer, __ATOMIC_ACQUIRE);
	capsule = PyCapsule_New(r, RINGBUF_CAPSULE, destroy);
	if (!capsule)
		free(r);
	return capsule;
}

/* Wait for records without the interpreter's lock. Returns -1 with an error: a signal came. */
static int wait_for(struct ringbuf *r, uint32_t max, uint64_t deadline_ns, uint64_t idle_ns)
{
	uint64_t idle_end = xsk_now_ns() + idle_ns;
	int again;

	do {
		Py_BEGIN_ALLOW_THREADS
		again = ringbuf_wait(r, max, deadline_ns, idle_end);
		Py_END_ALLOW_THREADS
		if (PyErr_CheckSignals())
			return -1;
	} while (again);
	return 0;
}

static PyObject *receive(PyObject *self, PyObject *args)
{
	unsigned long long columns, deadline_ns, idle_ns;
	PyObject *capsule;
	struct ringbuf *r;
	unsigned int max;

	(void)self;
	if (!PyArg_ParseTuple(args, "OKIKK", &capsule, &columns, &max, &deadline_ns, &idle_ns))
		return NULL;
	r = PyCapsule_GetPointer(capsule, RINGBUF_CAPSULE);
	if (!r || wait_for(r, max, deadline_ns, idle_ns))
		return NULL;
	return PyLong_FromUnsignedLong(
		ringbuf_take(r, (const struct packet_columns *)(uintptr_t)columns, max));
}

static PyObject *copy(PyObject *self, PyObject *args)
{
	unsigned long long records, size, deadline_ns, idle_ns;
	PyObject *capsule;
	struct ringbuf *r;
	unsigned int max;

	(void)self;
	if (!PyArg_ParseTuple(args, "OKKIKK", &capsule, &records, &size, &max, &deadline_ns,
			      &idle_ns))
		return NULL;
	r = PyCapsule_GetPointer(capsule, RINGBUF_CAPSULE);
	if (!r || wait_for(r, max, deadline_ns, idle_ns))
		return NULL;
	return PyLong_FromUnsignedLong(ringbuf_copy(r, (void *)(uintptr_t)records, size, max));
}

PyMethodDef ringbuf_methods[] = {
	{ "ringbuf_open", open_ringbuf, METH_VARARGS,
	  "ringbuf_open(consumer_page, producer_page, data_offset, size) -> ring buffer" },
	{ "ringbuf_receive", receive, METH_VARARGS,
	  "ringbuf_receive(ringbuf, columns, max, deadline_ns, idle_ns) -> rows" },
	{ "ringbuf_copy", copy, METH_VARARGS,
	  "ringbuf_copy(ringbuf, records, size, max, deadline_ns, idle_ns) -> records" },
	{ NULL, NULL, 0, NULL },
};
