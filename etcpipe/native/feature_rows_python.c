// SPDX-License-Identifier: Apache-2.0
/* Columns for gpu/features_native.py, which checks all arrays and keeps them alive. */
#include "native.h"

#include "feature_flow.h"

static PyObject *py_compute(PyObject *module, PyObject *args)
{
	unsigned long long plan_at, flows_at;
	const struct feature_plan *plan;
	const struct feature_flows *flows;
	struct flow flow = { 0 };
	__u32 i;

	(void)module;
	if (!PyArg_ParseTuple(args, "KK", &plan_at, &flows_at))
		return NULL;
	plan = (const struct feature_plan *)(uintptr_t)plan_at;
	flows = (const struct feature_flows *)(uintptr_t)flows_at;
	Py_BEGIN_ALLOW_THREADS
	for (i = 0; i < flows->flows; i++)
		features_of_flow(&flow, plan, flows, i);
	Py_END_ALLOW_THREADS
	Py_RETURN_NONE;
}

PyMethodDef feature_methods[] = {
	{ "features_compute", py_compute, METH_VARARGS,
	  "features_compute(plan, flows), addresses of records; see etcpipe.gpu.features_native." },
	{ NULL, NULL, 0, NULL },
};
