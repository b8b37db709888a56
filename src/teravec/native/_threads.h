/* Threads that help a kernel; for the extensions that share work out. See _threads.c.
 */
#define THREADS_CAPSULE "teravec.native._threads.share"

enum {
    MOST_THREADS = 64,
    PART = 1 << 16,  /* numbers compared, in some microseconds, that are worth a helper */
    BRIEF = 1 << 25, /* in some milliseconds: see below */
};

/* One part of the work, done by thread 0 (who asked) or one of those that help it, numbered from 1. */
typedef void (*part_t)(void *context, size_t part, size_t thread);

/* Do parts 0 to parts - 1 on at most `threads` threads, in no order; returns when all are done. To be
 * called without the interpreter lock. Of work that is `brief`, fewer than BRIEF numbers, no other
 * call's processor is worth taking. */
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
