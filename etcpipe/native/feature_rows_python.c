// SPDX-License-Identifier: Apache-2.0
/* Columns for gpu/features_native.py, which checks all arrays and keeps them alive. */
#include "native.h"

#include "feature_rows.h"

static PyObject *py_compute(PyObject *module, PyObject *args)
{
	unsigned long long plan, flows;

	(void)module;
	if (!PyArg_ParseTuple(args, "KK", &plan, &flows))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	features_compute((const struct feature_plan *)(uintptr_t)plan,
			 (const struct feature_flows *)(uintptr_t)flows);
	Py_END_ALLOW_THREADS
	Py_RETURN_NONE;
}

PyMethodDef feature_methods[] = {
	{ "features_compute", py_compute, METH_VARARGS,
	  "features_compute(plan, flows), addresses of records; see etcpipe.gpu.features_native." },
	{ NULL, NULL, 0, NULL },
};
