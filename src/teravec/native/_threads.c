/* teravec.native._threads: one pool of threads for all kernels of the process.
 *
 * A single query's scan takes some ten microseconds. Waking a Python thread for a part of it takes
 * longer, because of locks such as the interpreter's. So the helper threads know nothing of Python.
 * They take parts of the open calls. The calling thread works as well, so progress never depends on a
 * free helper. Calls from several threads share the helpers. An idle helper spins for a moment, because
 * the next step of a search comes soon, and then sleeps.
 *
 * Helpers start when they are first needed, and end with the process. A forked child starts with none.
 * Helpers block all signals, which are for Python's threads.
 */
#define _GNU_SOURCE /* sched_getcpu */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define THREADS_C
#include "_threads.h"

enum { WATCHED = 1024 }; /* callers at a time */
enum { CALLS = 16 }; /* that are open at once; who finds none free works alone */
#define LOOKING_NS 100000   /* that a helper without work looks on; a step of a search is shorter */
#define CROWDED_NS 2000000  /* that callers at the same time are remembered */
#define WAITING_ROUNDS 100 /* that a caller looks for its last helper before it sleeps */

/* Fields that are not atomic are written while the call offers no places, and read by threads that took
 * a place. */
typedef struct {
    _Alignas(64) atomic_int taken;
    atomic_int places; /* for helpers that may still come */
    atomic_int cpu; /* of the caller of brief work: a helper there would only be in its way */
    atomic_uint left;  /* helpers that came and went */
    atomic_int sleeping; /* the caller sleeps until `left` changes */
    atomic_size_t next; /* part */
    size_t parts;
    part_t work;
    void *context;
} call_t;

/* Processor time that a calling thread spent on work which others could have taken. */
typedef struct {
    atomic_int thread; /* as the system numbers it; of those with one place the last */
    atomic_llong ns;
} shared_t;

static shared_t shared[WATCHED];
static atomic_int watched; /* whether anyone asks */

static call_t calls[CALLS];
static atomic_uint opened;  /* calls, ever: what helpers sleep on */
static atomic_int asleep;   /* helpers */
static atomic_int callers;  /* threads in `share` */
static atomic_size_t started; /* helpers */
static atomic_int last_cpu = -1; /* of the last caller */
static atomic_int crowd; /* callers at once lately, or 2 where a processor was wanting */
static atomic_llong crowded_until;
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* For a while, limit brief calls to their share of the processors among this many callers. */
static void note_crowd(int together, long long now)
{
    atomic_store(&crowd, together);
    atomic_store(&crowded_until, now + CROWDED_NS);
}

static void sleep_while(atomic_uint *word, unsigned value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(atomic_uint *word, int most)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, most, NULL, NULL, 0);
}

/* ------------------------------------------------------------------ processor time */

static long long processor_ns(void)
{
    struct timespec spent;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
    return spent.tv_sec * 1000000000ll + spent.tv_nsec;
}

/* Of this thread; one that shared a place of `shared` loses it. */
static atomic_llong *shared_here(void)
{
    const int thread = (int)syscall(SYS_gettid);
    shared_t *mine = shared + thread % WATCHED;
    if (atomic_exchange(&mine->thread, thread) != thread)
        atomic_store(&mine->ns, 0);
    return &mine->ns;
}

/* ------------------------------------------------------------------ helpers */

static void take_parts(call_t *call, size_t thread)
{
    for (size_t part; (part = atomic_fetch_add(&call->next, 1)) < call->parts;)
        call->work(call->context, part, thread);
}

/* Take a place of a call, if there is one. */
static int help(call_t *call)
{
    int places = atomic_load(&call->places);
    if (places > 0 && sched_getcpu() == atomic_load(&call->cpu)) {
        note_crowd(2, now_ns()); /* the system has no other processor for this thread */
        return 0;
    }
    while (places > 0)
        if (atomic_compare_exchange_weak(&call->places, &places, places - 1)) {
            if (atomic_load(&watched)) /* again, as another thread may have taken the place */
                atomic_store(shared_here(), LLONG_MAX / 2); /* all that a helper ever does */
            take_parts(call, (size_t)places);
            atomic_fetch_add(&call->left, 1);
            /* The call may belong to another caller by now, which is then woken for nothing. */
            if (atomic_load(&call->sleeping))
                wake(&call->left, 1);
            return 1;
        }
    return 0;
}

static int help_any(void)
{
    int helped = 0;
    for (size_t i = 0; i < CALLS; i++)
        helped |= help(calls + i);
    return helped;
}

/* Spin until another call is opened; returns whether one was. */
static int look_on(unsigned before)
{
    const long long until = now_ns() + LOOKING_NS;
    while (atomic_load(&opened) == before) {
        const long long now = now_ns();
        if (now > until || now < atomic_load(&crowded_until) ||
            sched_getcpu() == atomic_load(&last_cpu))
            return 0;
        sched_yield(); /* to whoever wants this processor */
    }
    return 1;
}

static void *helper(void *unused)
{
    (void)unused;
    for (;;) {
        const unsigned before = atomic_load(&opened);
        if (help_any() || look_on(before))
            continue;
        atomic_fetch_add(&asleep, 1);
        sleep_while(&opened, before);
        atomic_fetch_sub(&asleep, 1);
    }
    return NULL;
}

/* Start helpers up to this number, if the system allows it. */
static void start_helpers(size_t wanted)
{
    sigset_t all, mask;
    pthread_attr_t detached;
    if (atomic_load(&started) >= wanted || pthread_mutex_trylock(&starting))
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (pthread_t thread; atomic_load(&started) < wanted; atomic_fetch_add(&started, 1))
        if (pthread_create(&thread, &detached, helper, NULL))
            break;
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    pthread_mutex_unlock(&starting);
}

/* ------------------------------------------------------------------ callers */

/* Threads for one caller among this many. */
static size_t fair_share(size_t threads, int together)
{
    const long long now = now_ns();
    if (together > 1) {
        note_crowd(together, now);
    } else if (now < atomic_load(&crowded_until)) {
        together = atomic_load(&crowd);
    }
    return threads / (size_t)together;
}

static call_t *free_call(void)
{
    for (size_t i = 0; i < CALLS; i++)
        if (!atomic_load(&calls[i].taken) && !atomic_exchange(&calls[i].taken, 1))
            return calls + i;
    return NULL;
}

/* Wait until this many helpers have left. */
static void wait_for(call_t *call, unsigned helpers)
{
    for (int i = 0; i < WAITING_ROUNDS && atomic_load(&call->left) < helpers; i++)
        sched_yield();
    atomic_store(&call->sleeping, 1);
    for (unsigned left; (left = atomic_load(&call->left)) < helpers;)
        sleep_while(&call->left, left);
    atomic_store(&call->sleeping, 0);
}

static void share_helped(call_t *call, int helpers, int brief)
{
    const int cpu = brief ? sched_getcpu() : -1;
    atomic_store(&call->cpu, cpu);
    atomic_store(&last_cpu, cpu);
    atomic_store(&call->left, 0);
    atomic_store(&call->next, 0);
    atomic_store(&call->places, helpers);
    atomic_fetch_add(&opened, 1);
    if (atomic_load(&asleep))
        wake(&opened, helpers);
    take_parts(call, 0);
    wait_for(call, (unsigned)(helpers - atomic_exchange(&call->places, 0)));
    atomic_store(&call->taken, 0);
}

static void share(size_t parts, size_t threads, int brief, part_t work, void *context)
{
    const int together = atomic_fetch_add(&callers, 1) + 1;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    if (brief && threads > 1)
        threads = fair_share(threads, together);
    threads = threads < parts ? threads : parts;
    call_t *call = threads > 1 ? free_call() : NULL;
    if (call) {
        start_helpers(threads - 1);
        call->parts = parts, call->work = work, call->context = context;
        const long long before = atomic_load(&watched) ? processor_ns() : -1;
        share_helped(call, (int)threads - 1, brief);
        if (before >= 0)
            atomic_fetch_add(shared_here(), processor_ns() - before);
    } else {
        for (size_t part = 0; part < parts; part++)
            work(context, part, 0);
    }
    atomic_fetch_sub(&callers, 1);
}

/* ------------------------------------------------------------------ the module */

static PyObject *py_watch(PyObject *self, PyObject *more)
{
    const long change = PyLong_AsLong(more);
    (void)self;
    if (change == -1 && PyErr_Occurred())
        return NULL;
    atomic_fetch_add(&watched, (int)change);
    return Py_NewRef(Py_None);
}

static PyObject *py_shared(PyObject *self, PyObject *unused)
{
    PyObject *found = PyDict_New();
    (void)self, (void)unused;
    for (int i = 0; found && i < WATCHED; i++) {
        const int thread = atomic_load(&shared[i].thread);
        if (!thread)
            continue;
        PyObject *key = PyLong_FromLong(thread);
        PyObject *value = PyLong_FromLongLong(atomic_load(&shared[i].ns));
        if (!key || !value || PyDict_SetItem(found, key, value) < 0)
            Py_CLEAR(found);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return found;
}

static PyObject *py_alone(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    if (!atomic_load(&watched))
        return Py_NewRef(Py_None);
    return PyLong_FromLongLong(processor_ns() - atomic_load(shared_here()));
}

static PyObject *py_give(PyObject *self, PyObject *since)
{
    const long long before = PyLong_AsLongLong(since);
    (void)self;
    if (before == -1 && PyErr_Occurred())
        return NULL;
    atomic_llong *ns = shared_here();
    atomic_store(ns, processor_ns() - before);
    return Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"watch", py_watch, METH_O,
     "watch(more)\n\nCount what callers share, while the sum of all `more` is above 0."},
    {"alone", py_alone, METH_NOARGS,
     "alone() -> ns or None\n\nProcessor time of this thread that it did not share; None if nobody asks."},
    {"give", py_give, METH_O,
     "give(since)\n\nWhat this thread did since alone() returned `since` was shared."},
    {"shared", py_shared, METH_NOARGS,
     "shared() -> {thread: ns}\n\nProcessor time that callers spent on work which helpers could take."},
    {NULL, NULL, 0, NULL},
};

/* In a forked child only the forking thread exists, and it is not in `share`. */
static void begin_anew(void)
{
    memset(calls, 0, sizeof calls);
    atomic_store(&asleep, 0);
    atomic_store(&callers, 0);
    atomic_store(&started, 0);
    pthread_mutex_init(&starting, NULL);
}

static share_t exported = share;

static int add_capsule(PyObject *module)
{
    static atomic_int registered;
    if (!atomic_exchange(&registered, 1) && pthread_atfork(NULL, NULL, begin_anew)) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *capsule = PyCapsule_New(&exported, THREADS_CAPSULE, NULL);
    const int failed = !capsule || PyModule_AddObjectRef(module, "share", capsule) < 0;
    Py_XDECREF(capsule);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_capsule}, {0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._threads", "Threads that help kernels; see _threads.c.",
    0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__threads(void)
{
    return PyModuleDef_Init(&module);
}
