/* serve/http.c: connections: what comes in, within limits, and what goes out. One thread of libmicrohttpd's; a connection that waits for the engine is suspended. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/server.h"

/* ---- what goes out ---- */

static ssize_t read_stream(void *user, uint64_t position, char *to, size_t most) {
    fm_wire *w = user;
    fm_server *s = w->server;
    ssize_t got = 0;
    (void)position;
    pthread_mutex_lock(&s->lock);
    size_t left = w->n_out - w->at_out, n = left < most ? left : most;
    if (n) {
        memcpy(to, w->out + w->at_out, n);
        w->at_out += n;
        got = (ssize_t)n;
        if (w->full_since > 0 && w->n_out - w->at_out < FM_OUT_PAUSE / 2) {
            w->full_since = 0;
            pthread_cond_signal(&s->work);
        }
    } else if (w->broken) {
        got = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (w->finished) {
        got = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        w->suspended = true;
        MHD_suspend_connection(w->connection);
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

static void add_headers(struct MHD_Response *response, const fm_wire *w) {
    MHD_add_response_header(response, "Content-Type", w->type);
    if (w->streaming) {
        MHD_add_response_header(response, "Cache-Control", "no-cache");
        MHD_add_response_header(response, "X-Accel-Buffering", "no");
    }
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (w->origin) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", w->origin);
        MHD_add_response_header(response, "Vary", "Origin");
    }
    for (const fm_header *h = w->headers; h; h = h->next) MHD_add_response_header(response, h->name, h->value);
}

static enum MHD_Result send_response(fm_wire *w) {
    if (w->broken && !w->streaming) return MHD_NO;
    struct MHD_Response *response = w->streaming ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 << 10, read_stream, w, NULL)
                                                 : MHD_create_response_from_buffer(w->n_out, w->out, MHD_RESPMEM_PERSISTENT);
    if (!response) return MHD_NO;
    add_headers(response, w);
    enum MHD_Result queued = MHD_queue_response(w->connection, (unsigned)w->status, response);
    MHD_destroy_response(response);
    return queued;
}

/* ---- connections ---- */

static fm_connection *connection_of(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void set_request(fm_server *s, struct MHD_Connection *connection, fm_wire *w) {
    fm_connection *c = connection_of(connection);
    pthread_mutex_lock(&s->lock);
    if (c) {
        c->wire = w;
        c->since = fm_serve_now();
    }
    pthread_mutex_unlock(&s->lock);
}

static void on_connection(void *user, struct MHD_Connection *connection, void **context, enum MHD_ConnectionNotificationCode code) {
    fm_server *s = user;
    fm_connection *c = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (!info || !(c = calloc(1, sizeof *c))) return;
        *c = (fm_connection){.fd = info->connect_fd, .since = fm_serve_now()};
        pthread_mutex_lock(&s->lock);
        c->next = s->connections;
        if (c->next) c->next->previous = c;
        s->connections = c;
        s->n_connections++;
        pthread_mutex_unlock(&s->lock);
        *context = c;
    } else if (c) {
        pthread_mutex_lock(&s->lock);
        *(c->previous ? &c->previous->next : &s->connections) = c->next;
        if (c->next) c->next->previous = c->previous;
        s->n_connections--;
        pthread_mutex_unlock(&s->lock);
        free(c);
        *context = NULL;
    }
}

/* libmicrohttpd closes connections on which nothing moves; these move, but get nowhere: a head or a body that comes in drops, an answer that is taken in drops. */
void fm_http_idle(fm_server *s, double now) {
    pthread_mutex_lock(&s->lock);
    for (fm_connection *c = s->connections; c; c = c->next) {
        const fm_wire *w = c->wire;
        double since = !w ? c->since : !w->dispatched ? w->opened : w->finished ? w->written : now;
        if (now - since > (w ? 4 : 1.5) * s->o.idle_seconds) shutdown(c->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- what comes in ---- */

/* An address is a text: what would end it early stays as it is. */
static size_t unescape(void *user, struct MHD_Connection *connection, char *text) {
    (void)user, (void)connection;
    return strstr(text, "%00") ? strlen(text) : MHD_http_unescape(text);
}

static const char *header(struct MHD_Connection *connection, const char *name) { return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name); }

static int not_ready(fm_server *s, fm_refusal *why) {
    pthread_mutex_lock(&s->lock);
    int state = s->state, stopping = s->stopping;
    pthread_mutex_unlock(&s->lock);
    if (state == FM_SERVER_READY && !stopping) return 0;
    fm_deny(why, 503, NULL, "%s", stopping ? "the server is shutting down" : "the model is being loaded");
    why->retry_seconds = 5;
    return -1;
}

/* The request is whole. */
static void dispatch(fm_exchange *x) {
    fm_wire *w = x->wire;
    const fm_route *route = w->route;
    fm_refusal why = w->refusal;
    int rc = why.status ? -1 : 0;
    if (rc == 0 && route->kind != FM_ROUTE_NOW) rc = not_ready(w->server, &why);
    if (rc == 0 && (strcmp(route->method, "POST") == 0)) rc = fm_exchange_read(x, w->in, w->n_in, &why);
    if (rc == 0 && route->kind == FM_ROUTE_NOW)
        rc = route->handle(x, &why);
    else if (rc == 0) {
        if (route->kind == FM_ROUTE_JOBS) rc = x->api->parse(x, &why);
        if (rc == 0) rc = fm_jobs_submit(w->server, x, &why);
    }
    if (rc < 0) fm_exchange_refuse(x, &why);
}

/* More of the body. What is refused anyhow is read and dropped. */
static void gather(fm_wire *w, const char *bytes, size_t n) {
    fm_server *s = w->server;
    if (w->refusal.status) return;
    if (w->n_in + n > s->most_body) {
        fm_deny(&w->refusal, 413, NULL, "the body has more than %llu bytes", (unsigned long long)s->most_body);
        return;
    }
    if (w->n_in + n > w->room_in) {
        size_t room = 2 * (w->n_in + n) < s->most_body ? 2 * (w->n_in + n) : s->most_body, more = room - w->room_in;
        pthread_mutex_lock(&s->lock);
        bool fits = s->body_bytes + more <= s->most_bodies;
        if (fits) s->body_bytes += more;
        pthread_mutex_unlock(&s->lock);
        char *in = fits ? realloc(w->in, room) : NULL;
        if (fits) w->room_in = room;
        if (!in) {
            fm_deny(&w->refusal, 429, NULL, "the bodies of requests take %llu bytes already", (unsigned long long)s->most_bodies);
            w->refusal.retry_seconds = 2;
            return;
        }
        w->in = in;
    }
    memcpy(w->in + w->n_in, bytes, n);
    w->n_in += n;
}

static int preflight(fm_exchange *x, fm_refusal *why) {
    (void)why;
    fm_reply_header(x, "Access-Control-Allow-Methods", "GET, POST, DELETE");
    const char *asked = header(x->wire->connection, "Access-Control-Request-Headers");
    if (asked) fm_reply_header(x, "Access-Control-Allow-Headers", asked);
    fm_reply_header(x, "Access-Control-Max-Age", "600");
    fm_reply_bytes(x, 204, "text/plain", "", 0);
    return 0;
}

/* The head of a request has come: where it goes, and whether it may. */
static fm_exchange *open_request(fm_server *s, struct MHD_Connection *connection, const char *url, const char *method) {
    static const fm_route options = {.method = "OPTIONS", .path = "*", .kind = FM_ROUTE_NOW, .handle = preflight, .open = true};
    const fm_asked asked = {header(connection, "Host"), header(connection, "Origin"), header(connection, "Authorization"), header(connection, "x-api-key")};
    fm_exchange *x = fm_exchange_open(s, connection, NULL);
    if (!x) return NULL;
    fm_wire *w = x->wire;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const char *rest = "";
    bool head = strcmp(method, "HEAD") == 0;
    w->fd = info ? info->connect_fd : -1;
    w->route = strcmp(method, "OPTIONS") == 0 ? &options : fm_route_find(head ? "GET" : method, url, &rest, &x->api, &w->refusal);
    x->rest = fm_exchange_text(x, rest, strlen(rest));
    if (w->route && w->route->api) x->shared = s->shared[w->route - fm_routes];
    fm_refusal unguarded = w->refusal;
    if (fm_guard_check(&s->o, &asked, w->route && w->route->open, &w->origin, &w->refusal) == 0) w->refusal = unguarded;
    const char *length = header(connection, "Content-Length");
    if (!w->refusal.status && length && strtoull(length, NULL, 10) > s->most_body)
        fm_deny(&w->refusal, 413, NULL, "the body has %.20s bytes, more than %llu", length, (unsigned long long)s->most_body);
    return x;
}

static enum MHD_Result fm_on_request(void *user, struct MHD_Connection *connection, const char *url, const char *method, const char *version, const char *data,
                                     size_t *n_data, void **context) {
    fm_server *s = user;
    fm_exchange *x = *context;
    (void)version;
    if (!x) {
        if (!(*context = x = open_request(s, connection, url, method))) return MHD_NO;
        set_request(s, connection, x->wire);
        const char *length = header(connection, "Content-Length");
        if (!length || strtoull(length, NULL, 10) <= 8 * s->most_body) return MHD_YES; /* a client hears what is wrong when it has sent all */
        fm_exchange_refuse(x, &x->wire->refusal);
        return send_response(x->wire);
    }
    fm_wire *w = x->wire;
    if (*n_data) {
        gather(w, data, *n_data);
        *n_data = 0;
        return MHD_YES;
    }
    pthread_mutex_lock(&s->lock);
    bool first = !w->dispatched;
    w->dispatched = true;
    pthread_mutex_unlock(&s->lock);
    if (first) dispatch(x);
    pthread_mutex_lock(&s->lock);
    bool ready = w->ready;
    if (!ready) {
        w->suspended = true;
        MHD_suspend_connection(connection);
    }
    pthread_mutex_unlock(&s->lock);
    return ready ? send_response(w) : MHD_YES;
}

static void on_completed(void *user, struct MHD_Connection *connection, void **context, enum MHD_RequestTerminationCode code) {
    (void)code;
    set_request(user, connection, NULL);
    if (*context) fm_exchange_leave(*context, false);
    *context = NULL;
}

/* ---- opening, closing ---- */

static int listen_at(const char *host, int port, int *out_port, fm_error *err) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICSERV | AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *found = NULL;
    struct sockaddr_storage bound;
    socklen_t n = sizeof bound;
    char service[8], *format = "cannot listen at %.200s port %d: %s";
    int one = 1, fd = -1;
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(host, service, &hints, &found);
    const char *problem = rc ? gai_strerror(rc) : NULL;
    if (!problem) {
        fd = socket(found->ai_family, SOCK_STREAM, 0);
        if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, 1024) || getsockname(fd, (struct sockaddr *)&bound, &n))
            problem = strerror(errno);
    }
    freeaddrinfo(found);
    if (problem) {
        if (err) *err = (fm_error){.code = FM_EIO};
        if (err) snprintf(err->message, sizeof err->message, format, host, port, problem);
        if (fd >= 0) close(fd);
        return FM_EIO;
    }
    char number[8];
    getnameinfo((struct sockaddr *)&bound, n, NULL, 0, number, sizeof number, NI_NUMERICSERV);
    *out_port = atoi(number);
    return fd;
}

int fm_http_open(fm_server *s, fm_error *err) {
    int fd = listen_at(s->o.host, s->o.port, &s->port, err);
    if (fd < 0) return fd;
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC;
    s->daemon = MHD_start_daemon(flags, 0, NULL, NULL, fm_on_request, s, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)s->o.connections,
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)s->o.idle_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)FM_MOST_HEADERS,
                                 MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_UNESCAPE_CALLBACK,
                                 unescape, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    if (s->daemon) return 0;
    close(fd);
    if (err) *err = (fm_error){.code = FM_EIO, .message = "the HTTP server does not start"};
    return FM_EIO;
}

void fm_http_quiesce(fm_server *s) {
    MHD_socket fd = MHD_quiesce_daemon(s->daemon);
    if (fd != MHD_INVALID_SOCKET) close(fd);
}

void fm_http_close(fm_server *s) {
    if (!s->daemon) return;
    pthread_mutex_lock(&s->lock);
    for (fm_exchange *x = s->exchanges; x; x = x->wire->next) {
        if (!x->wire->ready || (x->wire->streaming && !x->wire->finished)) x->wire->broken = x->wire->ready = true;
        fm_wire_wake(x->wire);
    }
    pthread_mutex_unlock(&s->lock);
    MHD_stop_daemon(s->daemon);
    s->daemon = NULL;
}
