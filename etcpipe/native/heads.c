// SPDX-License-Identifier: Apache-2.0
/* The first bytes of a batch's frames, side by side; etcpipe/batch.py is the only caller. */
#include "array.h"

#include <string.h>

#define LINE 64
#define PREFETCH_AHEAD 8	/* frames; each lies on a page of its own, and nothing is in a cache */

struct heads {
	const uint8_t *memory;
	uint64_t memory_len;
	const uint64_t *offset;
	const uint32_t *captured;
	uint32_t length;
};

static uint32_t head_len(const struct heads *heads, uint32_t i)
{
	return heads->captured[i] < heads->length ? heads->captured[i] : heads->length;
}

/* A frame, and the row that it goes to: a consumer that slept has neither in its caches. */
static void prefetch(const struct heads *heads, uint32_t i, const uint8_t *row)
{
	uint32_t len = head_len(heads, i), at;

	for (at = 0; at < len; at += LINE)
		__builtin_prefetch(heads->memory + heads->offset[i] + at);
	for (at = 0; at < heads->length; at += LINE)
		__builtin_prefetch(row + at, 1);
}

/* Returns 0, or -1: a frame is not within the memory. */
static int copy_all(const struct heads *heads, uint32_t n, uint8_t *row)
{
	uint32_t i, len;

	for (i = 0; i < n; i++, row += heads->length) {
		len = head_len(heads, i);
		if (i + PREFETCH_AHEAD < n)
			prefetch(heads, i + PREFETCH_AHEAD,
				 row + (size_t)PREFETCH_AHEAD * heads->length);
		if (heads->offset[i] > heads->memory_len ||
		    len > heads->memory_len - heads->offset[i])
			return -1;
		memcpy(row, heads->memory + heads->offset[i], len);
		memset(row + len, 0, heads->length - len);
	}
	return 0;
}

/* Find the arrays of a batch. Returns how many packets it has, or -1 with a Python error set. */
static Py_ssize_t find_frames(struct heads *heads, PyObject *memory, PyObject *offset,
			      PyObject *captured)
{
	struct array all, each;

	if (array_find(memory, &all) || array_find(offset, &each))
		return -1;
	heads->memory_len = all.shape[0];
	heads->memory = array_of_unsigned(memory, "memory", 1, all.shape[0]);
	heads->offset = array_of_unsigned(offset, "offset", sizeof(uint64_t), each.shape[0]);
	if (!heads->memory || !heads->offset)
		return -1;
	heads->captured = array_of_unsigned(captured, "captured", sizeof(uint32_t), each.shape[0]);
	return heads->captured ? each.shape[0] : -1;
}

static PyObject *copy_heads(PyObject *self, PyObject *args)
{
	PyObject *memory, *offset, *captured, *rows;
	struct heads heads;
	struct array to;
	Py_ssize_t n;

	(void)self;
	if (!PyArg_ParseTuple(args, "OOOO", &memory, &offset, &captured, &rows))
		return NULL;
	n = find_frames(&heads, memory, offset, captured);
	if (n < 0 || array_find(rows, &to))
		return NULL;
	if (!array_is_unsigned(&to, 1, 2) || to.shape[0] < n || to.shape[1] > UINT32_MAX)
		return PyErr_Format(PyExc_ValueError, "rows: contiguous, two dimensions of uint8, "
				    "%zd rows at least", n);
	heads.length = to.shape[1];
	if (!copy_all(&heads, n, to.numbers))
		return PyLong_FromSsize_t(n);
	PyErr_SetString(PyExc_ValueError, "a frame is not within memory");
	return NULL;
}

PyMethodDef heads_methods[] = {
	{ "copy_heads", copy_heads, METH_VARARGS,
	  "copy_heads(memory, offset, captured, rows) -> rows written; ValueError" },
	{ NULL, NULL, 0, NULL },
};
