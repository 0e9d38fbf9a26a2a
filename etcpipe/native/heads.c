// SPDX-License-Identifier: Apache-2.0
/* The first bytes of a batch's frames, side by side; etcpipe/batch.py is the only caller. */
#include "native.h"

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

static void prefetch(const struct heads *heads, uint32_t i)
{
	uint32_t len = head_len(heads, i), at;

	for (at = 0; at < len; at += LINE)
		__builtin_prefetch(heads->memory + heads->offset[i] + at);
}

/* Returns 0, or -1: a frame is not within the memory. */
static int copy_all(const struct heads *heads, uint32_t n, uint8_t *row)
{
	uint32_t i, len;

	for (i = 0; i < n; i++, row += heads->length) {
		len = head_len(heads, i);
		if (i + PREFETCH_AHEAD < n)
			prefetch(heads, i + PREFETCH_AHEAD);
		if (heads->offset[i] > heads->memory_len ||
		    len > heads->memory_len - heads->offset[i])
			return -1;
		memcpy(row, heads->memory + heads->offset[i], len);
		memset(row + len, 0, heads->length - len);
	}
	return 0;
}

static PyObject *copy_heads(PyObject *self, PyObject *args)
{
	unsigned long long memory, memory_len, offset, captured, rows;
	struct heads heads;
	unsigned int n;

	(void)self;
	if (!PyArg_ParseTuple(args, "KKKKIKI", &memory, &memory_len, &offset, &captured, &n, &rows,
			      &heads.length))
		return NULL;
	heads.memory = (const uint8_t *)(uintptr_t)memory;
	heads.memory_len = memory_len;
	heads.offset = (const uint64_t *)(uintptr_t)offset;
	heads.captured = (const uint32_t *)(uintptr_t)captured;
	if (copy_all(&heads, n, (uint8_t *)(uintptr_t)rows)) {
		PyErr_SetString(PyExc_ValueError, "a frame is not within memory");
		return NULL;
	}
	Py_RETURN_NONE;
}

PyMethodDef heads_methods[] = {
	{ "copy_heads", copy_heads, METH_VARARGS,
	  "copy_heads(memory, memory_len, offset, captured, n, rows, length); ValueError" },
	{ NULL, NULL, 0, NULL },
};
