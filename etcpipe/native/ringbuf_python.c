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

static PyObject *receive(PyObject *self, PyObject *args)
{
	unsigned long long columns, deadline_ns, idle_ns;
	PyObject *capsule;
	struct ringbuf *r;
	unsigned int max;
	uint64_t idle_end;
	int again;

	(void)self;
	if (!PyArg_ParseTuple(args, "OKIKK", &capsule, &columns, &max, &deadline_ns, &idle_ns))
		return NULL;
	r = PyCapsule_GetPointer(capsule, RINGBUF_CAPSULE);
	if (!r)
		return NULL;
	idle_end = xsk_now_ns() + idle_ns;
	do {
		Py_BEGIN_ALLOW_THREADS
		again = ringbuf_wait(r, max, deadline_ns, idle_end);
		Py_END_ALLOW_THREADS
		if (PyErr_CheckSignals())
			return NULL;
	} while (again);
	return PyLong_FromUnsignedLong(
		ringbuf_take(r, (const struct packet_columns *)(uintptr_t)columns, max));
}

PyMethodDef ringbuf_methods[] = {
	{ "ringbuf_open", open_ringbuf, METH_VARARGS,
	  "ringbuf_open(consumer_page, producer_page, data_offset, size) -> ring buffer" },
	{ "ringbuf_receive", receive, METH_VARARGS,
	  "ringbuf_receive(ringbuf, columns, max, deadline_ns, idle_ns) -> rows" },
	{ NULL, NULL, 0, NULL },
};
