/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcpipe._native: AF_XDP rings, capture files, the flow tracker and regrouping.
 * One .c file a subject, each with its method table. The limited API of Python 3.10
 * has no buffer protocol, so arrays arrive as addresses (see address.c); the Python module beside
 * each subject owns the arrays, checks dtype and shape, and keeps them alive.
 */
#ifndef ETCPIPE_NATIVE_H
#define ETCPIPE_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#define TRACKER_CAPSULE "etcpipe.tracker"

/* The tracker of a capsule; NULL with a Python error set if it is another object. */
struct tracker *tracker_from(PyObject *capsule);

extern PyMethodDef xsk_methods[];
extern PyMethodDef pcap_methods[];
extern PyMethodDef tracker_methods[];
extern PyMethodDef regroup_methods[];
extern PyMethodDef filter_methods[];
extern PyMethodDef ringbuf_methods[];
extern PyMethodDef heads_methods[];
extern PyMethodDef feature_methods[];
extern PyMethodDef gather_methods[];
extern PyMethodDef packet_view_methods[];
extern PyMethodDef tree_methods[];
extern PyMethodDef address_methods[];
extern PyMethodDef cascade_methods[];
extern PyMethodDef cascade_rows_methods[];
extern PyMethodDef cascade_verdict_methods[];

#endif /* ETCPIPE_NATIVE_H */
