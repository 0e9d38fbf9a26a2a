/* SPDX-License-Identifier: Apache-2.0 */
/* An array that came from Python: its numbers, found without making Python objects. */
#ifndef ETCPIPE_ARRAY_H
#define ETCPIPE_ARRAY_H

#include "native.h"

#define ARRAY_DIMENSIONS 2	/* whose lengths are kept */

struct array {
	void *numbers;
	char kind;	/* as NumPy's dtype.kind: 'u' of unsigned integers */
	int item_size;	/* bytes */
	int is_contiguous;
	int dimensions;
	Py_ssize_t shape[ARRAY_DIMENSIONS];	/* 0 beyond its dimensions */
};

/* Returns 0, or -1 with a Python error set: it is no array. */
int array_find(PyObject *object, struct array *found);

/* Is it a contiguous array of unsigned integers of so many bytes? */
int array_is_unsigned(const struct array *array, int item_size, int dimensions);

/*
 * The numbers of a contiguous array of @length unsigned integers of @item_size bytes, or NULL
 * with a Python error set that tells the array's name.
 */
void *array_of_unsigned(PyObject *object, const char *name, int item_size, Py_ssize_t length);

#endif /* ETCPIPE_ARRAY_H */
