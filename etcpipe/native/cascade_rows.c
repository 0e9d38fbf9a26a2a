// SPDX-License-Identifier: Apache-2.0
/* Rows of flows into their places and out again; etcpipe/cascade/pool.py calls it. */
#include "native.h"

#include "cascade_step.h"

#include <string.h>

/* Column by column: sources are read, and what is taken is written, from the front to the end. */
static void copy_in(const struct cascade_pool *pool, const uint64_t *sources,
		    const uint64_t *places, uint64_t n)
{
	const struct cascade_column *columns = (const void *)(uintptr_t)pool->columns;
	uint64_t c, i;

	for (c = 0; c < pool->n_columns; c++) {
		char *rows = (char *)(uintptr_t)columns[c].rows;
		const char *source = (const char *)(uintptr_t)sources[c];

		for (i = 0; i < n; i++)
			memcpy(rows + places[i] * columns[c].size, source + i * columns[c].size,
			       columns[c].size);
	}
}

static void copy_out(const struct cascade_pool *pool, const uint64_t *places, uint64_t n,
		     char *taken)
{
	const struct cascade_column *columns = (const void *)(uintptr_t)pool->columns;
	uint64_t c, i;

	for (c = 0; c < pool->n_columns; c++) {
		const char *rows = (const char *)(uintptr_t)columns[c].rows;

		for (i = 0; i < n; i++, taken += columns[c].size)
			memcpy(taken, rows + places[i] * columns[c].size, columns[c].size);
		taken += -(uintptr_t)taken % sizeof(uint64_t);	/* as pool.py places columns */
	}
}

/* The caller has seen to it that there are so many places. */
static PyObject *py_put(PyObject *module, PyObject *args)
{
	unsigned long long at, sources, depths, n, into, i;
	struct cascade_pool *pool;
	uint64_t *places;
	uint8_t *depth;

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKKK", &at, &sources, &depths, &n, &into))
		return NULL;
	pool = (struct cascade_pool *)(uintptr_t)at;
	places = (uint64_t *)(uintptr_t)into;
	depth = (uint8_t *)(uintptr_t)pool->depth;
	pool->n_free -= n;
	memcpy(places, (uint64_t *)(uintptr_t)pool->free + pool->n_free, n * sizeof(*places));
	copy_in(pool, (const uint64_t *)(uintptr_t)sources, places, n);
	for (i = 0; i < n; i++)
		depth[places[i]] = depths ? ((const uint8_t *)(uintptr_t)depths)[i] : 0;
	Py_RETURN_NONE;
}

static PyObject *py_take(PyObject *module, PyObject *args)
{
	unsigned long long pool, places, n, taken;

	(void)module;
	if (!PyArg_ParseTuple(args, "KKKK", &pool, &places, &n, &taken))
		return NULL;
	copy_out((const struct cascade_pool *)(uintptr_t)pool, (const uint64_t *)(uintptr_t)places,
		 n, (char *)(uintptr_t)taken);
	Py_RETURN_NONE;
}

static PyObject *py_free(PyObject *module, PyObject *args)
{
	unsigned long long pool, places, n, i;

	(void)module;
	if (!PyArg_ParseTuple(args, "KKK", &pool, &places, &n))
		return NULL;
	for (i = 0; i < n; i++)
		free_place((struct cascade_pool *)(uintptr_t)pool,
			  ((const uint64_t *)(uintptr_t)places)[i]);
	Py_RETURN_NONE;
}

PyMethodDef cascade_rows_methods[] = {
	{ "cascade_put", py_put, METH_VARARGS,
	  "cascade_put(pool, sources, depths, n, places): addresses; depths may be 0." },
	{ "cascade_take", py_take, METH_VARARGS,
	  "cascade_take(pool, places, n, taken): columns behind each other, each from a multiple "
	  "of eight bytes on." },
	{ "cascade_free", py_free, METH_VARARGS, "cascade_free(pool, places, n)" },
	{ NULL, NULL, 0, NULL },
};
