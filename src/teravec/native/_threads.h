/* Helper threads for kernels that divide their work; see _threads.c.
 */
#define THREADS_CAPSULE "teravec.native._threads.share"

enum {
    MOST_THREADS = 64,
    PART = 1 << 16,  /* numbers compared, in some microseconds, that are worth a helper */
    BRIEF = 1 << 25, /* in some milliseconds: see below */
};

/* Do one part of the work, on thread 0 (the caller) or on a helper, numbered from 1. */
typedef void (*part_t)(void *context, size_t part, size_t thread);

/* Do parts 0 to parts - 1 on at most `threads` threads, in any order; returns when all are done. Call it
 * without the interpreter lock. `brief` work, of fewer than BRIEF numbers, takes no processor from
 * other calls. */
typedef void (*share_t)(size_t parts, size_t threads, int brief, part_t work, void *context);

#ifndef THREADS_C
static share_t share;

/* For Py_mod_exec. */
static int import_threads(PyObject *module)
{
    PyObject *threads = PyImport_ImportModule("teravec.native._threads");
    PyObject *capsule = threads ? PyObject_GetAttrString(threads, "share") : NULL;
    const share_t *found = capsule ? PyCapsule_GetPointer(capsule, THREADS_CAPSULE) : NULL;
    (void)module;
    Py_XDECREF(capsule);
    Py_XDECREF(threads);
    if (!found)
        return -1;
    share = *found;
    return 0;
}
#endif
