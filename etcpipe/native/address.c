// SPDX-License-Identifier: Apache-2.0
/*
 * Where an array's numbers are. NumPy's own `.ctypes.data` makes Python objects for it, at two
 * microseconds each, and eight where the caches are cold; a batch of a cascade asks for some
 * thirty addresses.
 *
 * Source: NumPy's array interface protocol, version 3, "C-struct access".
 */
#include "array.h"

#define IS_CONTIGUOUS 1
#define BITS_A_BYTE 8

struct array_interface {
	int version;
	int dimensions;
	char kind;
	int item_size;
	int flags;
	Py_ssize_t *shape;
	Py_ssize_t *strides;
	void *numbers;
};

int array_find(PyObject *object, struct array *found)
{
	PyObject *held = PyObject_GetAttrString(object, "__array_struct__");
	const struct array_interface *from = held ? PyCapsule_GetPointer(held, NULL) : NULL;
	int i;

	if (from) {
		*found = (struct array){ .numbers = from->numbers, .kind = from->kind,
					 .item_size = from->item_size,
					 .is_contiguous = from->flags & IS_CONTIGUOUS,
					 .dimensions = from->dimensions };
		for (i = 0; i < from->dimensions && i < ARRAY_DIMENSIONS; i++)
			found->shape[i] = from->shape[i];
	}
	Py_XDECREF(held);
	return from ? 0 : -1;
}

int array_is_unsigned(const struct array *array, int item_size, int dimensions)
{
	return array->is_contiguous && array->kind == 'u' && array->item_size == item_size &&
	       array->dimensions == dimensions;
}

void *array_of_unsigned(PyObject *object, const char *name, int item_size, Py_ssize_t length)
{
	struct array found;

	if (array_find(object, &found))
		return NULL;
	if (array_is_unsigned(&found, item_size, 1) && found.shape[0] == length)
		return found.numbers;
	PyErr_Format(PyExc_ValueError, "%s must be a contiguous array of %zd uint%d", name, length,
		     item_size * BITS_A_BYTE);
	return NULL;
}

static PyObject *py_address(PyObject *module, PyObject *object)
{
	struct array found;

	(void)module;
	if (array_find(object, &found))
		return NULL;
	if (found.is_contiguous)
		return PyLong_FromVoidPtr(found.numbers);
	PyErr_SetString(PyExc_ValueError, "the array is not contiguous");
	return NULL;
}

PyMethodDef address_methods[] = {
	{ "address", py_address, METH_O,
	  "address(array) -> int: of a contiguous array without fields (with fields it is slow); "
	  "ValueError" },
	{ NULL, NULL, 0, NULL },
};
