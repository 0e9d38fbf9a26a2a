// SPDX-License-Identifier: Apache-2.0
#include "native.h"

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "etcpipe._native",
	.m_doc = "AF_XDP rings, capture files, the flow tracker and regrouping in C.",
	.m_size = -1,
};

PyMODINIT_FUNC PyInit__native(void)
{
	PyMethodDef *tables[] = { xsk_methods, pcap_methods, tracker_methods, regroup_methods,
				  filter_methods, ringbuf_methods, heads_methods, gather_methods,
				  feature_methods, packet_view_methods, tree_methods,
				  cascade_methods, cascade_rows_methods,
				  cascade_verdict_methods, address_methods };
	PyObject *native = PyModule_Create(&module);
	size_t i;

	for (i = 0; native && i < sizeof(tables) / sizeof(*tables); i++) {
		if (PyModule_AddFunctions(native, tables[i])) {
			Py_DECREF(native);
			return NULL;
		}
	}
	return native;
}
