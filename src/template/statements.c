/* template/statements.c: runs statements: what prints, chooses, repeats and sets. See interpreter.h. */
#include "template/interpreter.h"

static void check_output(fm_run *run, fm_frame *frame, size_t before) {
    const fm_interpreter *interpreter = run->interpreter;
    size_t bytes = frame->out->n - before;
    if (frame->out != interpreter->out) return;
    if (bytes > run->left.output) fm_refuse(run, FM_EFULL, "more text than a template may write");
    run->left.output -= bytes;
}

static void emit(fm_run *run, fm_frame *frame, fm_value value) {
    size_t before = frame->out->n;
    fm_write_str(frame->out, value);
    check_output(run, frame, before);
}

/* ---- targets */

/* Namespaces are looked at before the value is. */
static void check_members(fm_run *run, fm_frame *frame, const fm_node *target) {
    if (target->kind == FM_NODE_TUPLE) {
        for (size_t i = 0; i < target->n; i++) check_members(run, frame, target->items[i]);
    } else if (target->kind == FM_NODE_MEMBER && fm_frame_up(frame, target->up)->slots[target->slot].type != FM_NAMESPACE) {
        fm_refuse(run, FM_EFORMAT, "cannot assign attribute on non-namespace object");
    }
}

static void assign(fm_run *run, fm_frame *frame, const fm_node *target, fm_value value) {
    fm_value *slot = &fm_frame_up(frame, target->up)->slots[target->slot];
    if (target->kind == FM_NODE_NAME) {
        *slot = value;
        return;
    }
    if (target->kind == FM_NODE_MEMBER) {
        check_members(run, frame, target);
        if (target->value.text->data[0] == '_') fm_refuse(run, FM_EFORMAT, "a namespace stores no name that begins with an underscore");
        fm_dict_set(run, slot->dict, target->value, value);
        return;
    }
    if (!fm_is_iterable(value)) fm_refuse(run, FM_EFORMAT, "cannot unpack non-iterable %s object", fm_type_name(value));
    const fm_list *items = fm_items(run, value);
    if (items->n > target->n) fm_refuse(run, FM_EFORMAT, "too many values to unpack (expected %zu)", target->n);
    if (items->n < target->n) fm_refuse(run, FM_EFORMAT, "not enough values to unpack (expected %zu, got %zu)", target->n, items->n);
    for (size_t i = 0; i < target->n; i++) assign(run, frame, target->items[i], items->items[i]);
}

/* ---- blocks whose text is caught */

static fm_flow catch (fm_run *run, fm_frame *frame, const fm_node *body, fm_writer *writer) {
    fm_writer *out = frame->out;
    *writer = (fm_writer){.run = run};
    fm_scope_enter(run, frame, body->scope);
    frame->out = writer;
    fm_flow flow = fm_execute(run, frame, body);
    frame->out = out;
    return flow;
}

static fm_value filtered(fm_run *run, fm_frame *frame, const fm_node *filters, fm_writer *writer) {
    fm_interpreter *interpreter = run->interpreter;
    fm_value text = fm_written_string(writer);
    if (!filters) return text;
    interpreter->block = text;
    return fm_evaluate(run, frame, filters);
}

static fm_flow run_set_block(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_writer writer;
    fm_flow flow = catch (run, frame, node->body, &writer);
    if (flow != FM_FLOW_ON) return flow;
    run->line = node->line;
    assign(run, frame, node->a, filtered(run, frame, node->b, &writer));
    fm_scope_leave(frame, node->body->scope);
    return flow;
}

static fm_flow run_filter_block(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_writer writer;
    fm_flow flow = catch (run, frame, node->body, &writer);
    if (flow != FM_FLOW_ON) return flow;
    run->line = node->line;
    emit(run, frame, filtered(run, frame, node->a, &writer));
    fm_scope_leave(frame, node->body->scope);
    return flow;
}

/* ---- loops */

/* Where the items of a loop with a filter come from. */
typedef struct fm_candidates {
    fm_frame *frame;
    const fm_node *node;
    const fm_list *all;
    size_t at, cap;
} fm_candidates;

/* A recursive loop and the function that it stands in. */
typedef struct fm_recursion {
    fm_frame *frame;
    const fm_node *node;
} fm_recursion;

/* The item as the filter hands it on: unpacked and packed again. */
static fm_value repacked(fm_run *run, const fm_node *target, fm_value item) {
    return target->kind == FM_NODE_TUPLE ? fm_of_list(FM_TUPLE, fm_items(run, item)) : item;
}

/* The next item that passes the filter. The filter's variables are a scope of their own, in the places of the loop's. */
static bool find_more(fm_run *run, fm_loop *loop) {
    fm_candidates *from = loop->filter;
    const fm_scope *scope = from->node->scope;
    fm_value *kept = fm_take(run, (scope->n_slots + 1) * sizeof *kept);
    bool found = false;
    for (size_t i = 0; i < scope->n_slots; i++) kept[i] = from->frame->slots[scope->slots[i]];
    while (!found && from->at < from->all->n) {
        fm_value item = from->all->items[from->at++], passes;
        fm_scope_enter(run, from->frame, scope);
        assign(run, from->frame, from->node->a, item);
        passes = fm_evaluate(run, from->frame, from->node->c);
        if (!fm_true(&passes)) continue;
        if (loop->n == from->cap) {
            from->cap = from->cap ? 2 * from->cap : 8;
            loop->items = fm_take_more(run, loop->items, loop->n * sizeof item, from->cap * sizeof item);
        }
        loop->items[loop->n++] = repacked(run, from->node->a, item);
        found = true;
    }
    for (size_t i = 0; i < scope->n_slots; i++) from->frame->slots[scope->slots[i]] = kept[i];
    return found;
}

static fm_loop *new_loop(fm_run *run, fm_frame *frame, const fm_node *node, fm_value sequence) {
    fm_loop *loop = fm_take_zeroed(run, sizeof *loop);
    fm_list *all = fm_items(run, sequence);
    if (node->c) {
        fm_candidates *candidates = fm_take(run, sizeof *candidates);
        *candidates = (fm_candidates){.frame = frame, .node = node, .all = all};
        loop->filter = candidates;
        loop->more = find_more;
    } else {
        loop->items = all->items;
        loop->n = all->n;
    }
    return loop;
}

static fm_flow run_loop(fm_run *run, fm_frame *frame, const fm_node *node, fm_loop *loop) {
    const fm_scope *scope = node->body->scope;
    bool none = true; /* no turn came to its end: so jinja2 decides for the else */
    for (; loop->index < loop->n || (loop->more && loop->more(run, loop)); loop->index++) {
        run->line = node->line;
        fm_charge(run, 0);
        assign(run, frame, node->a, loop->items[loop->index]);
        if (node->caller || node->flag) frame->slots[scope->loop] = (fm_value){.type = FM_LOOP, .loop = loop};
        fm_scope_enter(run, frame, scope);
        fm_flow flow = fm_execute(run, frame, node->body);
        if (flow == FM_FLOW_BREAK) break;
        if (flow == FM_FLOW_ON) none = false;
    }
    if (!node->flag || node->other) fm_scope_leave(frame, scope); /* a function's variables stay with the macros that it made */
    if (!none || !node->other) return FM_FLOW_ON;
    fm_scope_enter(run, frame, node->other->scope);
    fm_flow flow = fm_execute(run, frame, node->other);
    fm_scope_leave(frame, node->other->scope);
    return flow;
}

/* A recursive loop is a function: its text is what it returns. */
static fm_value run_recursive(fm_run *run, fm_recursion *recursion, fm_value sequence, int depth) {
    const fm_node *node = recursion->node;
    int line = run->line;
    fm_writer writer = {.run = run};
    if (run->left.depth < node->depth) fm_refuse(run, FM_EFULL, "nested too deeply");
    run->left.depth -= node->depth;
    fm_frame *frame = fm_frame_new(run, node->body->scope, recursion->frame, &writer);
    fm_loop *loop = new_loop(run, frame, node, sequence);
    loop->depth = depth;
    loop->recursive = recursion;
    run_loop(run, frame, node, loop);
    frame->out = NULL;
    run->left.depth += node->depth;
    run->line = line;
    return fm_written_string(&writer);
}

fm_value fm_loop_again(fm_run *run, fm_loop *loop, const fm_arguments *arguments) {
    if (arguments->n != 1 || arguments->n_named) fm_refuse(run, FM_EFORMAT, "loop() takes one argument");
    if (!loop->recursive) fm_refuse(run, FM_EFORMAT, "The loop must have the 'recursive' marker to be called recursively.");
    return run_recursive(run, loop->recursive, arguments->values[0], loop->depth + 1);
}

static fm_flow run_for(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_value sequence = fm_evaluate(run, frame, node->b);
    run->line = node->line;
    if (!node->flag) return run_loop(run, frame, node, new_loop(run, frame, node, sequence));
    fm_recursion *recursion = fm_take(run, sizeof *recursion);
    *recursion = (fm_recursion){frame, node};
    emit(run, frame, run_recursive(run, recursion, sequence, 0));
    return FM_FLOW_ON;
}

/* ---- the rest */

static fm_flow run_items(fm_run *run, fm_frame *frame, const fm_node *body) {
    fm_flow flow = FM_FLOW_ON;
    for (size_t i = 0; i < body->n && flow == FM_FLOW_ON; i++) flow = fm_execute(run, frame, body->items[i]);
    return flow;
}

static fm_flow run_if(fm_run *run, fm_frame *frame, const fm_node *node) {
    size_t i = 0;
    for (; i + 1 < node->n; i += 2) {
        fm_value test = fm_evaluate(run, frame, node->items[i]);
        if (fm_true(&test)) return run_items(run, frame, node->items[i + 1]);
    }
    return i < node->n ? run_items(run, frame, node->items[i]) : FM_FLOW_ON;
}

static fm_value new_macro(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_macro *macro = fm_take(run, sizeof *macro);
    *macro = (fm_macro){
        .name = node->name, .parameters = node->names, .n_parameters = node->n_names, .varargs = node->varargs, .kwargs = node->kwargs, .caller = node->caller};
    macro->node = node;
    macro->scope = frame;
    return (fm_value){.type = FM_MACRO, .macro = macro};
}

static void run_call_block(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_value caller = new_macro(run, frame, node->b);
    emit(run, frame, node->a ? fm_evaluate_call(run, frame, node->a, &caller) : fm_call(run, caller, &(fm_arguments){0}));
}

static fm_flow run_with(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_scope_enter(run, frame, node->body->scope);
    for (size_t i = 0; i < node->n; i += 2) {
        fm_value value = fm_evaluate(run, frame, node->items[i + 1]);
        run->line = node->line;
        assign(run, frame, node->items[i], value);
    }
    fm_flow flow = run_items(run, frame, node->body);
    if (flow == FM_FLOW_ON) fm_scope_leave(frame, node->body->scope);
    return flow;
}

static void run_set(fm_run *run, fm_frame *frame, const fm_node *node) {
    run->line = node->line;
    check_members(run, frame, node->a);
    fm_value value = fm_evaluate(run, frame, node->b);
    run->line = node->line;
    assign(run, frame, node->a, value);
}

fm_flow fm_execute(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_value value;
    fm_charge(run, 0);
    switch (node->kind) {
    case FM_NODE_DATA: emit(run, frame, node->value); break;
    case FM_NODE_OUTPUT:
        value = fm_evaluate(run, frame, node->a);
        run->line = node->line;
        emit(run, frame, value);
        break;
    case FM_NODE_IF: return run_if(run, frame, node);
    case FM_NODE_FOR: return run_for(run, frame, node);
    case FM_NODE_SET: run_set(run, frame, node); break;
    case FM_NODE_SET_BLOCK: return run_set_block(run, frame, node);
    case FM_NODE_FILTER_BLOCK: return run_filter_block(run, frame, node);
    case FM_NODE_WITH: return run_with(run, frame, node);
    case FM_NODE_MACRO: fm_frame_up(frame, node->up)->slots[node->slot] = new_macro(run, frame, node); break;
    case FM_NODE_CALL_BLOCK: run_call_block(run, frame, node); break;
    case FM_NODE_BREAK: return FM_FLOW_BREAK;
    case FM_NODE_CONTINUE: return FM_FLOW_CONTINUE;
    default: return run_items(run, frame, node);
    }
    return FM_FLOW_ON;
}
