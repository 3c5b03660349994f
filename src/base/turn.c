/* base/turn.c: see turn.h. */
#include "base/turn.h"

#include <errno.h>

int fm_turn_open(fm_turn *t, fm_error *err) {
    *t = (fm_turn){0};
    int rc = pthread_mutex_init(&t->mutex, NULL);
    if (rc) return fm_fail_errno(err, FM_ENOMEM, rc, "no lock");
    rc = pthread_cond_init(&t->moved, NULL);
    if (rc) {
        pthread_mutex_destroy(&t->mutex);
        return fm_fail_errno(err, FM_ENOMEM, rc, "no lock");
    }
    t->open = true;
    return 0;
}

void fm_turn_close(fm_turn *t) {
    if (!t->open) return;
    pthread_cond_destroy(&t->moved);
    pthread_mutex_destroy(&t->mutex);
    t->open = false;
}

static void wait_for(fm_turn *t, int depth) {
    uint64_t number = t->next++;
    while (t->serving != number) pthread_cond_wait(&t->moved, &t->mutex);
    t->holder = pthread_self();
    t->depth = depth;
}

static void go_on(fm_turn *t) {
    t->depth = 0;
    t->serving++;
    pthread_cond_broadcast(&t->moved);
}

void fm_turn_take(fm_turn *t) {
    pthread_mutex_lock(&t->mutex);
    if (t->depth && pthread_equal(t->holder, pthread_self()))
        t->depth++;
    else
        wait_for(t, 1);
    pthread_mutex_unlock(&t->mutex);
}

void fm_turn_give(fm_turn *t) {
    pthread_mutex_lock(&t->mutex);
    if (t->depth == 1)
        go_on(t);
    else
        t->depth--;
    pthread_mutex_unlock(&t->mutex);
}

void fm_turn_pass(fm_turn *t) {
    pthread_mutex_lock(&t->mutex);
    if (t->next > t->serving + 1) {
        int depth = t->depth;
        go_on(t);
        wait_for(t, depth);
    }
    pthread_mutex_unlock(&t->mutex);
}
