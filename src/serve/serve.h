/* serve/serve.h: the server, as the program starts it: HTTP in one thread, the engine in another. It uses the library as any other program would. */
#ifndef FM_SERVE_SERVE_H
#define FM_SERVE_SERVE_H

#include "flash_moe.h"

typedef struct fm_server fm_server;

typedef struct fm_server_options {
    const char *model;
    fm_engine_options engine; /* n_sessions is set from parallel */
    const char *host;         /* an address: "127.0.0.1", "::1", "0.0.0.0" */
    int port;                 /* 0: any that is free */
    const char *key;          /* what clients have to show; NULL: nothing */
    int parallel;             /* answers that are made at once */
    int queue;                /* answers that wait for that, at most */
    const char *alias;        /* what the model is called; NULL: its directory's name */
    bool strict_model;
    const char *const *origins; /* [n_origins] pages that may ask, "http://host:port" or "*" */
    int n_origins;
    const char *const *hosts; /* [n_hosts] more names that the server is called by */
    int n_hosts;
    int connections;      /* at once */
    double idle_seconds;  /* of a silent connection, and of a request that does not get ready */
    double alive_seconds; /* a stream is silent for so long at most */
    double stall_seconds; /* a client that takes nothing of its stream is given up after so long */
    double grace_seconds; /* for answers when the server stops */
    uint64_t body_bytes;  /* of a request, at most; 0: by the memory */
    const char *template_file;
    int max_tokens, think_budget; /* defaults, -1: any */
    /* The model's sampling as the command line changes it; called once it is loaded. */
    void (*sampling)(void *user, const fm_engine *engine, fm_sampling *out);
    void *user;
} fm_server_options;

/* Whether only programs of this machine reach the address. */
bool fm_guard_loopback(const char *host);

/* Opens the port; the model is loaded meanwhile, by the engine's thread. What options point to has to stay. */
int fm_server_open(fm_server **out, const fm_server_options *options, fm_error *err);
int fm_server_port(const fm_server *server);
/* To be called a few times a second: keep-alives, connections that are idle. 1: the server goes on; 0: it has stopped; or the error why there is no model. */
int fm_server_tick(fm_server *server, fm_error *err);
bool fm_server_ready(fm_server *server);
/* No new requests; what is being answered may finish within grace_seconds. Called again: at once. */
void fm_server_stop(fm_server *server);
/* Ends everything, saves states. */
void fm_server_close(fm_server **server);

#endif
