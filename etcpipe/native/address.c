// SPDX-License-Identifier: Apache-2.0
/*
 * Where an array's numbers are. NumPy's own `.ctypes.data` makes Python objects for it, at two
 * microseconds each; a batch of a cascade asks for some thirty addresses.
 *
 * Source: NumPy's array interface protocol, version 3, "C-struct access".
 */
#include "native.h"

#define IS_CONTIGUOUS 1

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

static PyObject *py_address(PyObject *module, PyObject *array)
{
	PyObject *held = PyObject_GetAttrString(array, "__array_struct__"), *address = NULL;
	struct array_interface *found = held ? PyCapsule_GetPointer(held, NULL) : NULL;

	(void)module;
	if (found && found->flags & IS_CONTIGUOUS)
		address = PyLong_FromVoidPtr(found->numbers);
	else if (found)
		PyErr_SetString(PyExc_ValueError, "the array is not contiguous");
	Py_XDECREF(held);
	return address;
}

PyMethodDef address_methods[] = {
	{ "address", py_address, METH_O,
	  "address(array) -> int: of a contiguous array without fields (with fields it is slow); "
	  "ValueError" },
	{ NULL, NULL, 0, NULL },
};
