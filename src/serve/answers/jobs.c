/* serve/answers/jobs.c: answers that wait for a session: who is next, and when there are too many. */
#include <stdlib.h>
#include <string.h>

#include "serve/server.h"

static int retry_seconds(const fm_server *s) {
    double seconds = s->job_seconds * (s->n_waiting + 1) / s->o.parallel;
    return seconds < 1 ? 1 : seconds > 60 ? 60 : (int)seconds;
}

int fm_jobs_submit(fm_server *s, fm_exchange *x, fm_refusal *why) {
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    int there = s->n_waiting + s->n_running + s->n_coming, room = s->o.parallel + s->o.queue;
    if (s->state != FM_SERVER_READY) {
        rc = fm_deny(why, 503, NULL, "the server is shutting down");
    } else if (x->n_jobs && there + x->n_jobs > room) {
        rc = fm_deny(why, 429, NULL, "%d answers are being made and %d wait, which is all that may", s->n_running, s->n_waiting + s->n_coming);
        why->retry_seconds = retry_seconds(s);
    } else if (s->n_fresh == s->room_fresh) {
        int more = 2 * s->room_fresh + 64;
        fm_exchange **fresh = realloc(s->fresh, (size_t)more * sizeof *fresh);
        if (fresh) {
            s->fresh = fresh;
            s->room_fresh = more;
        } else {
            rc = fm_deny(why, 500, NULL, "there is no memory for a request");
        }
    }
    if (rc == 0) {
        s->fresh[s->n_fresh++] = x;
        s->n_coming += x->n_jobs;
        s->counters.n_requests += x->n_jobs > 0;
        x->wire->engine_holds = true;
        pthread_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int fm_jobs_wait(fm_server *s, fm_job *job) {
    fm_job **waiting = realloc(s->waiting, (size_t)(s->n_waiting + 1) * sizeof *waiting);
    if (!waiting) return -1;
    s->waiting = waiting;
    s->waiting[s->n_waiting++] = job;
    return 0;
}

void fm_jobs_drop(fm_server *s, const fm_exchange *x) {
    int n = 0;
    for (int i = 0; i < s->n_waiting; i++)
        if (s->waiting[i]->exchange != x) s->waiting[n++] = s->waiting[i];
    s->n_waiting = n;
}

static int n_running_of(const fm_server *s, const fm_exchange *x) {
    int n = 0;
    for (int i = 0; i < s->o.parallel; i++) n += s->slots[i].job && s->slots[i].job->exchange == x;
    return n;
}

/* Those of one request begin after its first has read the prompt, which they find there then. */
static bool may_begin(const fm_job *job) {
    const fm_job *first = &job->exchange->jobs[0];
    if (job == first || !first->run || first->n_tokens) return true;
    return first->run->ended;
}

/* The first that came, but requests that have fewer answers in the making go before those that have more. */
fm_job *fm_jobs_next(fm_server *s) {
    int best = -1, least = 0;
    for (int i = 0; i < s->n_waiting; i++) {
        if (!may_begin(s->waiting[i])) continue;
        int n = n_running_of(s, s->waiting[i]->exchange);
        if (best < 0 || n < least) {
            best = i;
            least = n;
        }
    }
    if (best < 0) return NULL;
    fm_job *job = s->waiting[best];
    memmove(s->waiting + best, s->waiting + best + 1, (size_t)(--s->n_waiting - best) * sizeof *s->waiting);
    return job;
}
