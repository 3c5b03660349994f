/* cli/chat/signals.c: flags that handlers set. */
#include "cli/chat/signals.h"

#include <signal.h>
#include <stddef.h>

static fm_engine *volatile computing_engine; /* a handler has no other way to find it */
static fm_engine *the_engine;
static volatile sig_atomic_t interrupted, ended, resized;

static void on_stop(int number) {
    fm_engine *engine = computing_engine;

    if (number == SIGINT)
        interrupted = 1;
    else
        ended = 1;
    if (engine) fm_engine_cancel(engine, true);
}

static void on_resize(int number) {
    (void)number;
    resized = 1;
}

/* No SA_RESTART: reading a line has to notice. A second SIGTERM kills. */
static void set_handler(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

    sigaction(number, &action, NULL);
}

void fm_signals_open(fm_engine *engine) {
    the_engine = engine;
    set_handler(SIGINT, on_stop, 0);
    set_handler(SIGTERM, on_stop, (int)SA_RESETHAND);
    set_handler(SIGHUP, on_stop, (int)SA_RESETHAND);
    set_handler(SIGWINCH, on_resize, SA_RESTART);
}

void fm_signals_close(void) {
    computing_engine = NULL;
    the_engine = NULL;
    set_handler(SIGINT, SIG_DFL, 0);
    set_handler(SIGWINCH, SIG_DFL, 0);
}

void fm_signals_begin(void) {
    interrupted = 0;
    computing_engine = the_engine;
    if (ended && the_engine) fm_engine_cancel(the_engine, true); /* it came before */
}

void fm_signals_end(void) {
    computing_engine = NULL;
    if (the_engine) fm_engine_cancel(the_engine, false);
}

bool fm_signals_interrupted(void) { return interrupted || ended; }
void fm_signals_forget(void) { interrupted = 0; }
bool fm_signals_ended(void) { return ended; }

bool fm_signals_resized(void) {
    bool was = resized;

    resized = 0;
    return was;
}
