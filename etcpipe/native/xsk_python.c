// SPDX-License-Identifier: Apache-2.0
/* The AF_XDP socket for Python; etcpipe/ring.py is the only caller. */
#include "native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "xsk.h"

#define XSK_CAPSULE "etcpipe.xsk"

static struct xsk *xsk_from(PyObject *capsule)
{
	return PyCapsule_GetPointer(capsule, XSK_CAPSULE);
}

/* Like xsk_from, but the socket must be open. */
static struct xsk *open_xsk_from(PyObject *capsule)
{
	struct xsk *xsk = xsk_from(capsule);

	if (xsk && xsk->fd < 0) {
		PyErr_SetString(PyExc_ValueError, "the ring is closed");
		return NULL;
	}
	return xsk;
}

static void destroy(PyObject *capsule)
{
	struct xsk *xsk = xsk_from(capsule);

	xsk_close(xsk);
	free(xsk);
}

/* OSError(errno, step): ring.py makes a sentence of it. */
static PyObject *os_error(int error, const char *step)
{
	PyObject *args = Py_BuildValue("(is)", error, step);

	if (args)
		PyErr_SetObject(PyExc_OSError, args);
	Py_XDECREF(args);
	return NULL;
}

static PyObject *open_socket(PyObject *self, PyObject *args)
{
	unsigned long long memory;
	PyObject *capsule = NULL;
	struct xsk_setup setup;
	const char *step;
	struct xsk *xsk;

	(void)self;
	if (!PyArg_ParseTuple(args, "KIII", &memory, &setup.frames, &setup.frame_size,
			      &setup.ring_size))
		return NULL;
	setup.memory = (uint8_t *)(uintptr_t)memory;
	xsk = calloc(1, sizeof(*xsk));
	if (!xsk)
		return PyErr_NoMemory();
	step = xsk_open(xsk, &setup);
	if (step)
		os_error(errno, step);
	else
		capsule = PyCapsule_New(xsk, XSK_CAPSULE, destroy);
	if (!capsule) {
		xsk_close(xsk);
		free(xsk);
	}
	return capsule;
}

static PyObject *bind_socket(PyObject *self, PyObject *args)
{
	unsigned int ifindex, queue;
	PyObject *capsule;
	struct xsk *xsk;
	int zero_copy;

	(void)self;
	if (!PyArg_ParseTuple(args, "OIIp", &capsule, &ifindex, &queue, &zero_copy))
		return NULL;
	xsk = open_xsk_from(capsule);
	if (!xsk)
		return NULL;
	if (xsk_bind(xsk, ifindex, queue, zero_copy))
		return os_error(errno, "bind");
	Py_RETURN_NONE;
}

static PyObject *close_socket(PyObject *self, PyObject *capsule)
{
	struct xsk *xsk = xsk_from(capsule);

	(void)self;
	if (!xsk)
		return NULL;
	xsk_close(xsk);
	Py_RETURN_NONE;
}

static PyObject *descriptor(PyObject *self, PyObject *capsule)
{
	struct xsk *xsk = open_xsk_from(capsule);

	(void)self;
	return xsk ? PyLong_FromLong(xsk->fd) : NULL;
}

/* Wait for a batch. Returns 0, or -1 with a Python error set; nothing is taken yet. */
static int wait_for_batch(PyObject *capsule, uint32_t max, uint64_t deadline_ns, uint64_t idle_ns)
{
	uint64_t idle_end = xsk_now_ns() + idle_ns;
	int status, error;

	do {
		struct xsk *xsk = open_xsk_from(capsule);

		if (!xsk)
			return -1;
		Py_BEGIN_ALLOW_THREADS
		status = xsk_wait(xsk, max, deadline_ns, idle_end);
		error = status < 0 ? errno : 0;
		Py_END_ALLOW_THREADS
		/* a signal's handler may raise, or close the ring */
		if (PyErr_CheckSignals())
			return -1;
	} while (status > 0 || error == EINTR);
	if (!error)
		return open_xsk_from(capsule) ? 0 : -1;
	os_error(error, "receive");
	return -1;
}

/* Did the statistics move since they were looked at last? -1 with a Python error set. */
static int moved(struct xsk *xsk)
{
	struct xdp_statistics now;

	if (xsk_statistics(xsk, &now)) {
		os_error(errno, "statistics");
		return -1;
	}
	if (!memcmp(&now, &xsk->told, sizeof(now)))
		return 0;
	xsk->told = now;
	return 1;
}

static PyObject *receive(PyObject *self, PyObject *args)
{
	unsigned long long columns, idle_ns;
	unsigned int max, n;
	PyObject *capsule;
	double deadline_s;
	struct xsk *xsk;
	int has_moved;

	(void)self;
	if (!PyArg_ParseTuple(args, "OKIdK", &capsule, &columns, &max, &deadline_s, &idle_ns))
		return NULL;
	if (wait_for_batch(capsule, max, deadline_s > 0 ? deadline_s * 1e9 : 0, idle_ns))
		return NULL;
	xsk = xsk_from(capsule);
	n = xsk_take(xsk, (const struct packet_columns *)(uintptr_t)columns, max, 0);
	has_moved = moved(xsk);
	return has_moved < 0 ? NULL : Py_BuildValue("(II)", n, has_moved);
}

/* Is it a batch that the caller may hold? Sets a Python error if not. */
static int check_batch(unsigned int batch)
{
	if (batch < XSK_BATCHES)
		return 1;
	PyErr_Format(PyExc_ValueError, "batch %u: 0 to %d", batch, XSK_BATCHES - 1);
	return 0;
}

static PyObject *take_full(PyObject *self, PyObject *args)
{
	unsigned long long columns;
	unsigned int max, batch;
	PyObject *capsule;
	struct xsk *xsk;
	uint32_t n = 0;

	(void)self;
	if (!PyArg_ParseTuple(args, "OKII", &capsule, &columns, &max, &batch))
		return NULL;
	xsk = open_xsk_from(capsule);
	if (!xsk || !check_batch(batch))
		return NULL;
	if (xsk_available(xsk) >= max)
		n = xsk_take(xsk, (const struct packet_columns *)(uintptr_t)columns, max, batch);
	return PyLong_FromUnsignedLong(n);
}

static PyObject *release(PyObject *self, PyObject *args)
{
	unsigned int batch;
	PyObject *capsule;
	struct xsk *xsk;

	(void)self;
	if (!PyArg_ParseTuple(args, "OI", &capsule, &batch))
		return NULL;
	xsk = xsk_from(capsule);
	if (!xsk || !check_batch(batch))
		return NULL;
	if (xsk->fd >= 0)	/* else the kernel wants them no more */
		xsk_release(xsk, batch);
	Py_RETURN_NONE;
}

static PyObject *statistics(PyObject *self, PyObject *capsule)
{
	struct xsk *xsk = open_xsk_from(capsule);
	struct xdp_statistics s;

	(void)self;
	if (!xsk)
		return NULL;
	if (xsk_statistics(xsk, &s))
		return os_error(errno, "statistics");
	return Py_BuildValue("(KKKK)", s.rx_dropped, s.rx_invalid_descs, s.rx_ring_full,
			     s.rx_fill_ring_empty_descs);
}

static PyObject *is_zero_copy(PyObject *self, PyObject *capsule)
{
	struct xsk *xsk = open_xsk_from(capsule);
	struct xdp_options options = {};
	socklen_t len = sizeof(options);

	(void)self;
	if (!xsk)
		return NULL;
	if (getsockopt(xsk->fd, SOL_XDP, XDP_OPTIONS, &options, &len))
		return os_error(errno, "options");
	return PyBool_FromLong(options.flags & XDP_OPTIONS_ZEROCOPY);
}

PyMethodDef xsk_methods[] = {
	{ "xsk_open", open_socket, METH_VARARGS,
	  "xsk_open(memory, frames, frame_size, ring_size) -> socket; OSError(errno, step)" },
	{ "xsk_bind", bind_socket, METH_VARARGS,
	  "xsk_bind(socket, ifindex, queue, zero_copy), one attempt; OSError(errno, step)" },
	{ "xsk_close", close_socket, METH_O, "xsk_close(socket); again is no error" },
	{ "xsk_fd", descriptor, METH_O, "xsk_fd(socket) -> file descriptor" },
	{ "xsk_receive", receive, METH_VARARGS,
	  "xsk_receive(socket, columns, max, deadline_s, idle_ns) -> (rows, statistics moved); "
	  "OSError(errno, step)" },
	{ "xsk_take_full", take_full, METH_VARARGS,
	  "xsk_take_full(socket, columns, max, batch) -> max rows, or 0 where fewer are there" },
	{ "xsk_release", release, METH_VARARGS,
	  "xsk_release(socket, batch): its frames are the kernel's; again is no error" },
	{ "xsk_statistics", statistics, METH_O,
	  "xsk_statistics(socket) -> (rx_dropped, rx_invalid_descs, rx_ring_full, "
	  "rx_fill_ring_empty_descs)" },
	{ "xsk_zero_copy", is_zero_copy, METH_O, "xsk_zero_copy(socket) -> bool" },
	{ NULL, NULL, 0, NULL },
};
