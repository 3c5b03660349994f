/* cli/remote/remote_none.c: without libcurl there are no servers to talk to. */
#include <string.h>

#include "cli/cli.h"
#include "cli/remote/remote.h"

int fm_remote_open(struct remote **out, const char *url, const char *key_from, fm_error *err) {
    (void)key_from;
    *out = NULL;
    return fm_cli_fail(err, FM_EUNSUPPORTED, "%s cannot be asked: this flash-moe was built without libcurl", url);
}

void fm_remote_close(struct remote **remote) { *remote = NULL; }
const char *fm_remote_url(const struct remote *remote) { return (const char *)remote; }
const char *fm_remote_model(const struct remote *remote) { return (const char *)remote; }
int fm_remote_context(const struct remote *remote) { return remote != NULL; }

int fm_remote_answer(struct remote *remote, const char *request, const struct remote_calls *calls, fm_answered *out, fm_error *err) {
    (void)remote, (void)calls;
    *out = (fm_answered){0};
    return fm_cli_fail(err, FM_EUNSUPPORTED, "a request of %zu bytes cannot be sent: this flash-moe was built without libcurl", strlen(request));
}
