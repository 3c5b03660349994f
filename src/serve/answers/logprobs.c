/* serve/answers/logprobs.c: how likely a token was, and which were the likeliest. */
#include <math.h>

#include "serve/server.h"

void fm_token_probabilities(fm_token *out, int32_t id, int n, const float *logits, int vocab) {
    double sum = 0;
    float most = logits[0];
    int n_top = 0;
    for (int i = 1; i < vocab; i++) most = logits[i] > most ? logits[i] : most;
    for (int i = 0; i < vocab; i++) {
        sum += exp((double)logits[i] - most);
        if (n_top == n && (n == 0 || logits[i] <= out->top[n - 1].logprob)) continue;
        int at = n_top < n ? n_top++ : n - 1;
        for (; at > 0 && out->top[at - 1].logprob < logits[i]; at--) out->top[at] = out->top[at - 1];
        out->top[at] = (fm_logprob){.id = i, .logprob = logits[i]};
    }
    double all = most + (sum > 0 ? log(sum) : 0);
    for (int i = 0; i < n_top; i++) out->top[i].logprob = (float)(out->top[i].logprob - all);
    for (int i = n_top; i < n; i++) out->top[i] = (fm_logprob){.id = id, .logprob = -INFINITY};
    out->chosen = (fm_logprob){.id = id, .logprob = (float)(logits[id] - all)};
}
