/* template/interpreter.h: running the tree: evaluate.c has expressions and calls, statements.c what prints and sets. */
#ifndef FM_TEMPLATE_INTERPRETER_H
#define FM_TEMPLATE_INTERPRETER_H

#include "template/library/library.h"
#include "template/syntax.h"

/* A function that runs: the template, a macro, a recursive loop. It lives on in the macros that it made. */
typedef struct fm_frame fm_frame;
struct fm_frame {
    fm_value *slots; /* FM_MISSING: nothing is set */
    fm_frame *up;    /* of the function that it stands in */
    fm_writer *out;
};

/* What a run keeps for evaluation: run->interpreter. */
typedef struct fm_interpreter {
    const fm_tree *tree;
    fm_value *globals; /* by number; FM_MISSING: there is none of that name */
    fm_writer *out;    /* the template's: only what is written there counts as output */
    fm_value block;    /* the text that a filter without a value before it is applied to */
} fm_interpreter;

typedef enum fm_flow { FM_FLOW_ON, FM_FLOW_BREAK, FM_FLOW_CONTINUE } fm_flow;

/* evaluate.c */
fm_value fm_evaluate(fm_run *run, fm_frame *frame, const fm_node *node);
/* The value of a call block's call, whose macro goes as `caller`. */
fm_value fm_evaluate_call(fm_run *run, fm_frame *frame, const fm_node *node, const fm_value *caller);
/* Calls anything that can be called. */
fm_value fm_call(fm_run *run, fm_value callee, const fm_arguments *arguments);
fm_frame *fm_frame_new(fm_run *run, const fm_scope *scope, fm_frame *up, fm_writer *out);
/* The variables of a scope begin, and are gone. */
void fm_scope_enter(fm_run *run, fm_frame *frame, const fm_scope *scope);
void fm_scope_leave(fm_frame *frame, const fm_scope *scope);
static inline fm_frame *fm_frame_up(fm_frame *frame, uint32_t up) {
    for (; up; up--) frame = frame->up;
    return frame;
}

/* statements.c */
fm_flow fm_execute(fm_run *run, fm_frame *frame, const fm_node *node);
/* loop(items) within a recursive loop. */
fm_value fm_loop_again(fm_run *run, fm_loop *loop, const fm_arguments *arguments);

#endif
