// SPDX-License-Identifier: Apache-2.0
/* Filter expressions by libpcap; etcpipe/kernel/filters.py is the only caller. */
#include "native.h"

#include <pcap/pcap.h>

#define SNAP_LEN 262144		/* what a filter returns for a packet that it wants */

static PyObject *compile_filter(PyObject *self, PyObject *args)
{
	struct bpf_program program;
	PyObject *code = NULL;
	const char *expression;
	pcap_t *pcap;

	(void)self;
	if (!PyArg_ParseTuple(args, "s", &expression))
		return NULL;
	pcap = pcap_open_dead(DLT_EN10MB, SNAP_LEN);
	if (!pcap)
		return PyErr_NoMemory();
	if (pcap_compile(pcap, &program, expression, 1, PCAP_NETMASK_UNKNOWN)) {
		PyErr_Format(PyExc_ValueError, "%s", pcap_geterr(pcap));
	} else {
		code = PyBytes_FromStringAndSize((const char *)program.bf_insns,
						 program.bf_len * sizeof(struct bpf_insn));
		pcap_freecode(&program);
	}
	pcap_close(pcap);
	return code;
}

/* libpcap's own word on a frame, which ours must agree with. */
static PyObject *match_filter(PyObject *self, PyObject *args)
{
	struct pcap_pkthdr header = {};
	struct bpf_program program;
	const char *code, *frame;
	Py_ssize_t code_len, frame_len;

	(void)self;
	if (!PyArg_ParseTuple(args, "y#y#", &code, &code_len, &frame, &frame_len))
		return NULL;
	program.bf_len = code_len / sizeof(struct bpf_insn);
	program.bf_insns = (struct bpf_insn *)code;
	header.caplen = header.len = frame_len;
	return PyBool_FromLong(pcap_offline_filter(&program, &header, (const u_char *)frame));
}

PyMethodDef filter_methods[] = {
	{ "filter_compile", compile_filter, METH_VARARGS,
	  "filter_compile(expression) -> classic BPF for Ethernet, 8 bytes an instruction; "
	  "ValueError: libpcap's complaint" },
	{ "filter_match", match_filter, METH_VARARGS,
	  "filter_match(code, frame) -> does libpcap's interpreter want the frame?" },
	{ NULL, NULL, 0, NULL },
};
