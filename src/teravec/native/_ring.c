/* teravec.native._ring: many reads in flight by io_uring, through the kernel's two rings.
 *
 * One system call submits many reads and waits for some. A pool of threads needs one call and one
 * thread switch for each read. Data that has arrived can be used while other reads are in flight.
 *
 * References: Axboe, "Efficient IO with io_uring", 2019; io_uring_setup(2), io_uring_enter(2).
 */
#include "_native_common.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's interface, which is missing in the headers of the oldest systems that wheels are built
 * on. The numbers are the same on every architecture that Python and NumPy support. */
enum { SETUP = 425, ENTER = 426 };
enum { ENTER_GETEVENTS = 1, FEAT_SINGLE_MMAP = 1 /* Linux 5.4 */, OP_READ = 22 /* Linux 5.6 */ };
#define OFF_SQES 0x10000000ull

typedef struct {
    uint32_t head, tail, mask, entries, flags, dropped, array, resv;
    uint64_t user_addr;
} sq_offsets_t;

typedef struct {
    uint32_t head, tail, mask, entries, overflow, cqes, flags, resv;
    uint64_t user_addr;
} cq_offsets_t;

typedef struct {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    sq_offsets_t sq;
    cq_offsets_t cq;
} params_t;

typedef struct {
    uint8_t opcode, flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t offset, address;
    uint32_t length, rw_flags;
    uint64_t user_data, unused[3];
} sqe_t;

typedef struct {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
} cqe_t;

_Static_assert(sizeof(params_t) == 120 && sizeof(sqe_t) == 64 && sizeof(cqe_t) == 16, "layout");

typedef struct {
    PyObject_HEAD
    int fd;
    char *words; /* both rings, of words_bytes */
    sqe_t *sqes;
    size_t words_bytes, sqes_bytes;
    params_t params;
    pid_t owner;       /* a forked child has the memory, but not the ring */
    buffers_t buffers; /* held until all reads that were begun have ended */
    const int64_t *fds, *offsets, *lengths, *at;
    uint8_t *target;
    int64_t *results;
    /* Of n reads, those before `begun` are lined up for the kernel, the last `unsubmitted` of them
     * not yet handed over; those before `ended` have all ended. */
    size_t n, begun, ended, in_flight;
    unsigned unsubmitted;
    int busy; /* a thread is inside */
} ring_t;

#define PENDING INT64_MIN

static uint32_t *word(const ring_t *r, uint32_t offset)
{
    return (uint32_t *)(r->words + offset);
}

static void line_up(ring_t *r)
{
    const uint32_t mask = *word(r, r->params.sq.mask);
    uint32_t tail = *word(r, r->params.sq.tail); /* only we write it */
    for (; r->begun < r->n && r->in_flight < r->params.sq_entries; r->begun++, tail++) {
        sqe_t *sqe = r->sqes + (tail & mask);
        memset(sqe, 0, sizeof *sqe);
        sqe->opcode = OP_READ;
        sqe->fd = (int32_t)r->fds[r->begun];
        sqe->offset = (uint64_t)r->offsets[r->begun];
        sqe->address = (uint64_t)(uintptr_t)(r->target + r->at[r->begun]);
        sqe->length = (uint32_t)r->lengths[r->begun];
        sqe->user_data = r->begun;
        r->in_flight++;
        r->unsubmitted++;
    }
    __atomic_store_n(word(r, r->params.sq.tail), tail, __ATOMIC_RELEASE);
}

static void reap(ring_t *r)
{
    const uint32_t mask = *word(r, r->params.cq.mask);
    const cqe_t *cqes = (const cqe_t *)(r->words + r->params.cq.cqes);
    const uint32_t tail = __atomic_load_n(word(r, r->params.cq.tail), __ATOMIC_ACQUIRE);
    uint32_t head = *word(r, r->params.cq.head);
    for (; head != tail; head++, r->in_flight--) {
        const cqe_t *cqe = cqes + (head & mask);
        r->results[cqe->user_data] = cqe->result;
    }
    __atomic_store_n(word(r, r->params.cq.head), head, __ATOMIC_RELEASE);
    while (r->ended < r->begun && r->results[r->ended] != PENDING)
        r->ended++;
}

/* Submit the queued reads, and wait until at least so many more have ended. Returns 0 or an errno. */
static int enter(ring_t *r, size_t least)
{
    const long result = syscall(ENTER, r->fd, r->unsubmitted, (unsigned)least,
                                least ? ENTER_GETEVENTS : 0, NULL, (size_t)0);
    const int code = result < 0 ? errno : 0;
    if (result > 0)
        r->unsubmitted -= (unsigned)result;
    reap(r);
    return code == EAGAIN || code == EBUSY ? 0 : code;
}

/* Wait until the reads before `stop` have ended; others go on. Returns 0 or an errno. */
static int wait_before(ring_t *r, size_t stop)
{
    for (;;) {
        line_up(r);
        const size_t missing = stop > r->ended ? stop - r->ended : 0;
        /* If there are more reads than the ring holds, refill it before it is empty. */
        const size_t most = r->begun < r->n ? (r->in_flight + 3) / 4 : r->in_flight;
        const int code = missing || r->unsubmitted ? enter(r, missing < most ? missing : most) : 0;
        if (code || !missing)
            return code;
    }
}

/* Start no more reads, and wait for those in flight. Reads that the kernel never took are withdrawn. */
static int drain(ring_t *r)
{
    int code = 0;
    r->n = r->begun;
    while (r->in_flight && (!(code = enter(r, r->in_flight)) || code == EINTR))
        ;
    return code;
}

/* ------------------------------------------------------------------ the type */

static PyObject *failed(int code)
{
    errno = code;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* One thread of one process at a time. */
static int take_ring(ring_t *r)
{
    if (r->busy || r->owner != getpid()) {
        PyErr_SetString(PyExc_ValueError, r->busy ? "the ring is in use" : "a ring of a parent");
        return 0;
    }
    return r->busy = 1;
}

static int map_rings(ring_t *r)
{
    const params_t *p = &r->params;
    const size_t sq = p->sq.array + 4 * (size_t)p->sq_entries;
    const size_t cq = p->cq.cqes + sizeof(cqe_t) * (size_t)p->cq_entries;
    r->words_bytes = sq > cq ? sq : cq, r->sqes_bytes = sizeof(sqe_t) * (size_t)p->sq_entries;
    void *words = mmap(NULL, r->words_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
    void *sqes = mmap(NULL, r->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, OFF_SQES);
    r->words = words == MAP_FAILED ? NULL : words, r->sqes = sqes == MAP_FAILED ? NULL : sqes;
    if (!r->words || !r->sqes)
        return 0;
    for (uint32_t i = 0; i < p->sq_entries; i++)
        word(r, p->sq.array)[i] = i;
    return 1;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Py_ssize_t depth;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "n:Ring", &depth) || !check_positive("depth", depth))
        return NULL;
    ring_t *r = (ring_t *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!r)
        return NULL;
    r->owner = getpid();
    r->fd = (int)syscall(SETUP, (unsigned)depth, &r->params);
    errno = r->fd < 0 || r->params.features & FEAT_SINGLE_MMAP ? errno : ENOSYS;
    if (r->fd >= 0 && r->params.features & FEAT_SINGLE_MMAP && map_rings(r))
        return (PyObject *)r;
    PyErr_SetFromErrno(PyExc_OSError);
    Py_DECREF(r);
    return NULL;
}

static void ring_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ring_t *r = (ring_t *)self;
    if (r->in_flight && r->owner == getpid())
        drain(r); /* none may write to the buffer after we let go of it */
    if (r->sqes)
        munmap(r->sqes, r->sqes_bytes);
    if (r->words)
        munmap(r->words, r->words_bytes);
    if (r->fd >= 0)
        close(r->fd);
    release(&r->buffers);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static int check_reads(const ring_t *r, size_t nbytes)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->offsets[i] < 0 || r->lengths[i] < 0 || r->lengths[i] > INT32_MAX || r->at[i] < 0 ||
            (size_t)r->lengths[i] > nbytes || (size_t)r->at[i] > nbytes - (size_t)r->lengths[i]) {
            PyErr_Format(PyExc_ValueError, "read %zu: %lld bytes from %lld to byte %lld of %zu", i,
                         (long long)r->lengths[i], (long long)r->offsets[i], (long long)r->at[i],
                         nbytes);
            return 0;
        }
    return 1;
}

static PyObject *ring_begin(PyObject *self, PyObject *args)
{
    ring_t *r = (ring_t *)self;
    PyObject *o_reads, *o_buffer, *o_results;
    size_t nwords, nbytes;
    if (!PyArg_ParseTuple(args, "OOO:begin", &o_reads, &o_buffer, &o_results) || !take_ring(r))
        return NULL;
    int ready = !r->in_flight;
    if (!ready) {
        PyErr_SetString(PyExc_ValueError, "reads are in flight: drain the ring first");
    } else {
        release(&r->buffers);
        r->begun = r->ended = 0;
        ready = (r->fds = take(&r->buffers, o_reads, "reads", 'q', 0, &nwords)) &&
                (r->target = take(&r->buffers, o_buffer, "buffer", 'B', 1, &nbytes)) &&
                (r->results = take(&r->buffers, o_results, "results", 'q', 1, &r->n)) &&
                check_product("reads", nwords, 4, r->n);
    }
    if (ready) {
        r->offsets = r->fds + r->n, r->lengths = r->offsets + r->n, r->at = r->lengths + r->n;
        ready = check_reads(r, nbytes);
    }
    if (ready) {
        for (size_t i = 0; i < r->n; i++)
            r->results[i] = PENDING;
    } else if (!r->in_flight) {
        r->n = 0;
        release(&r->buffers);
    }
    r->busy = 0;
    return ready ? Py_NewRef(Py_None) : NULL;
}

static PyObject *ring_wait(PyObject *self, PyObject *args)
{
    ring_t *r = (ring_t *)self;
    Py_ssize_t stop;
    int code = 0, interrupted = 0;
    if (!PyArg_ParseTuple(args, "n:wait", &stop) || !take_ring(r))
        return NULL;
    if (stop < 0 || (size_t)stop > r->n) {
        PyErr_Format(PyExc_ValueError, "stop is %zd of %zu reads", stop, r->n);
        interrupted = 1;
    }
    while (!interrupted) {
        Py_BEGIN_ALLOW_THREADS;
        code = wait_before(r, (size_t)stop);
        Py_END_ALLOW_THREADS;
        if (code != EINTR)
            break;
        interrupted = PyErr_CheckSignals() < 0;
    }
    r->busy = 0;
    if (interrupted)
        return NULL;
    return code ? failed(code) : PyLong_FromSize_t(r->ended);
}

static PyObject *ring_drain(PyObject *self, PyObject *Py_UNUSED(none))
{
    ring_t *r = (ring_t *)self;
    int code;
    if (!take_ring(r))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    code = drain(r);
    Py_END_ALLOW_THREADS;
    if (!r->in_flight) {
        r->n = r->begun = r->ended = 0;
        release(&r->buffers);
    }
    r->busy = 0;
    return code ? failed(code) : Py_NewRef(Py_None);
}

static PyMethodDef ring_methods[] = {
    {"begin", ring_begin, METH_VARARGS, "Take up reads; the first `wait` hands them over."},
    {"wait", ring_wait, METH_VARARGS, "Wait for the first so many reads; how many have ended."},
    {"drain", ring_drain, METH_NOARGS, "Begin no more, and wait for all that are in flight."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, ring_methods},
    {0, NULL},
};

static PyType_Spec ring_spec = {
    .name = "teravec.native._ring.Ring",
    .basicsize = sizeof(ring_t),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = ring_slots,
};

static int add_ring(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&ring_spec);
    const int added = type ? PyModule_AddObjectRef(module, "Ring", type) : -1;
    Py_XDECREF(type);
    return added;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_ring}, {0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._ring", "Reads by io_uring; see _ring.c.", 0,
    NULL, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__ring(void)
{
    return PyModuleDef_Init(&module);
}
