/* template/evaluate.c: runs expressions and calls macros. See interpreter.h. */
#include "template/interpreter.h"

#include <string.h>

/* ---- scopes */

fm_frame *fm_frame_new(fm_run *run, const fm_scope *scope, fm_frame *up, fm_writer *out) {
    fm_frame *frame = fm_take(run, sizeof *frame);
    fm_charge(run, scope->frame_slots * sizeof *frame->slots);
    *frame = (fm_frame){.slots = fm_take_zeroed(run, scope->frame_slots * sizeof *frame->slots), .up = up, .out = out};
    return frame;
}

void fm_scope_enter(fm_run *run, fm_frame *frame, const fm_scope *scope) {
    const fm_interpreter *interpreter = run->interpreter;
    for (size_t i = 0; i < scope->n_loads; i++) {
        const fm_load *load = &scope->loads[i];
        fm_value *slot = &frame->slots[load->slot];
        switch (load->kind) {
        case FM_LOAD_NOTHING: *slot = (fm_value){0}; break;
        case FM_LOAD_GLOBAL: *slot = interpreter->globals[load->from]; break;
        case FM_LOAD_OUTER: *slot = fm_frame_up(frame, load->up)->slots[load->from]; break;
        }
    }
    fm_charge(run, scope->n_loads);
}

void fm_scope_leave(fm_frame *frame, const fm_scope *scope) {
    for (size_t i = 0; i < scope->n_slots; i++) frame->slots[scope->slots[i]] = (fm_value){0};
}

/* ---- arguments */

static void add_named(fm_run *run, fm_arguments *arguments, const fm_text *name, fm_value value) {
    for (size_t i = 0; i < arguments->n_named; i++) {
        const fm_text *other = arguments->names[i];
        if (other->bytes == name->bytes && memcmp(other->data, name->data, name->bytes) == 0) {
            fm_refuse(run, FM_EFORMAT, "got multiple values for keyword argument '%.*s'", (int)name->bytes, name->data);
        }
    }
    fm_charge(run, arguments->n_named);
    arguments->names[arguments->n_named] = name;
    arguments->named[arguments->n_named++] = value;
}

static fm_dict *named_of(fm_run *run, fm_value value) {
    if (value.type == FM_UNDEFINED) fm_refuse_use(run, value);
    if (value.type != FM_DICT) fm_refuse(run, FM_EFORMAT, "argument after ** must be a mapping, not %s", fm_type_name(value));
    for (size_t i = 0; i < value.dict->n; i++) {
        if (value.dict->pairs[i].key.type != FM_STRING) fm_refuse(run, FM_EFORMAT, "keywords must be strings");
    }
    return value.dict;
}

/* Evaluates what stands in the parentheses of node. */
static __attribute__((noinline)) fm_arguments collect(fm_run *run, fm_frame *frame, const fm_node *node, const fm_value *caller) {
    fm_arguments arguments = {0};
    fm_value *plain = node->n ? fm_take(run, node->n * sizeof *plain) : NULL, *named = node->n_names ? fm_take(run, node->n_names * sizeof *named) : NULL;
    const fm_list *star = NULL;
    const fm_dict *star_star = NULL;
    for (size_t i = 0; i < node->n; i++) plain[i] = fm_evaluate(run, frame, node->items[i]);
    for (size_t i = 0; i < node->n_names; i++) named[i] = fm_evaluate(run, frame, node->named[i]);
    if (node->star) star = fm_items(run, fm_evaluate(run, frame, node->star));
    if (node->star_star) star_star = named_of(run, fm_evaluate(run, frame, node->star_star));
    run->line = node->line;
    arguments.values = plain;
    arguments.n = node->n;
    if (star) {
        fm_charge(run, (node->n + star->n) * sizeof *plain);
        arguments.values = fm_take(run, (node->n + star->n + 1) * sizeof *plain);
        if (node->n) memcpy(arguments.values, plain, node->n * sizeof *plain);
        if (star->n) memcpy(arguments.values + node->n, star->items, star->n * sizeof *plain);
        arguments.n += star->n;
    }
    if (!star_star && !caller) {
        arguments.names = node->names;
        arguments.named = named;
        arguments.n_named = node->n_names;
        return arguments;
    }
    size_t most = node->n_names + (star_star ? star_star->n : 0) + 1;
    arguments.names = fm_take(run, most * sizeof *arguments.names);
    arguments.named = fm_take(run, most * sizeof *arguments.named);
    for (size_t i = 0; i < node->n_names; i++) add_named(run, &arguments, node->names[i], named[i]);
    if (caller) add_named(run, &arguments, fm_text_borrow(run, "caller", 6), *caller);
    for (size_t i = 0; star_star && i < star_star->n; i++) add_named(run, &arguments, star_star->pairs[i].key.text, star_star->pairs[i].value);
    return arguments;
}

/* ---- macros */

/* Takes keyword argument `name`: MISSING if it is not given. */
static fm_value take_named(fm_run *run, const fm_arguments *arguments, bool *taken, const fm_text *name) {
    fm_charge(run, arguments->n_named);
    for (size_t i = 0; i < arguments->n_named; i++) {
        const fm_text *other = arguments->names[i];
        if (taken[i] || other->bytes != name->bytes || memcmp(other->data, name->data, name->bytes) != 0) continue;
        taken[i] = true;
        return arguments->named[i];
    }
    return (fm_value){0};
}

static int shown(const fm_text *text) { return text->bytes < 100 ? (int)text->bytes : 100; }

static void take_rest(fm_run *run, fm_frame *frame, const fm_node *node, const fm_arguments *arguments, const bool *taken) {
    const fm_scope *scope = node->body->scope;
    const fm_text *name = node->name ? node->name : fm_text_borrow(run, "caller", 6);
    fm_dict *kwargs = fm_dict_new(run);
    for (size_t i = 0; i < arguments->n_named; i++) {
        const fm_text *key = arguments->names[i];
        if (taken[i]) continue;
        if (!node->kwargs) fm_refuse(run, FM_EFORMAT, "macro '%.*s' takes no keyword argument '%.*s'", shown(name), name->data, shown(key), key->data);
        fm_dict_set(run, kwargs, fm_string(key), arguments->named[i]);
    }
    if (node->kwargs) frame->slots[scope->kwargs] = fm_of_dict(FM_DICT, kwargs);
    size_t extra = arguments->n > node->n_names ? arguments->n - node->n_names : 0;
    if (node->varargs) {
        fm_list *rest = fm_list_new(run, extra);
        for (size_t i = 0; i < extra; i++) fm_list_add(run, rest, arguments->values[node->n_names + i]);
        frame->slots[scope->varargs] = fm_of_list(FM_TUPLE, rest);
    } else if (extra) {
        fm_refuse(run, FM_EFORMAT, "macro '%.*s' takes not more than %zu argument(s)", shown(name), name->data, node->n_names);
    }
}

static void take_arguments(fm_run *run, fm_frame *frame, const fm_node *node, const fm_arguments *arguments) {
    const fm_scope *scope = node->body->scope;
    bool *taken = fm_take_zeroed(run, arguments->n_named);
    for (size_t i = 0; i < node->n_names; i++) {
        frame->slots[scope->parameters[i]] = i < arguments->n ? arguments->values[i] : take_named(run, arguments, taken, node->names[i]);
    }
    if (node->caller) {
        fm_value caller = take_named(run, arguments, taken, &(fm_text){.data = "caller", .bytes = 6});
        bool given = caller.type != FM_MISSING && caller.type != FM_NONE;
        frame->slots[scope->caller] = given ? caller : fm_undefined(run, "No caller defined");
    }
    take_rest(run, frame, node, arguments, taken);
    for (size_t i = 0; i < node->n_names; i++) {
        fm_value *slot = &frame->slots[scope->parameters[i]];
        if (slot->type != FM_MISSING) continue;
        if (i + node->n >= node->n_names) {
            *slot = fm_evaluate(run, frame, node->items[i + node->n - node->n_names]);
        } else {
            *slot = fm_undefined(run, "parameter '%.*s' was not provided", shown(node->names[i]), node->names[i]->data);
        }
    }
}

static fm_value call_macro(fm_run *run, const fm_macro *macro, const fm_arguments *arguments) {
    const fm_node *node = macro->node;
    int line = run->line, depth = node->body->depth;
    fm_writer writer = {.run = run};
    if (run->left.depth < depth) fm_refuse(run, FM_EFULL, "nested too deeply");
    run->left.depth -= depth;
    fm_frame *frame = fm_frame_new(run, node->body->scope, macro->scope, &writer);
    fm_scope_enter(run, frame, node->body->scope);
    take_arguments(run, frame, node, arguments);
    fm_execute(run, frame, node->body);
    frame->out = NULL;
    run->left.depth += depth;
    run->line = line;
    return fm_written_string(&writer);
}

fm_value fm_call(fm_run *run, fm_value callee, const fm_arguments *arguments) {
    fm_charge(run, 0);
    if (callee.type == FM_MACRO) return call_macro(run, callee.macro, arguments);
    if (callee.type == FM_LOOP) return fm_loop_again(run, callee.loop, arguments);
    return fm_call_object(run, callee, arguments);
}

/* ---- operations */

fm_value fm_evaluate_call(fm_run *run, fm_frame *frame, const fm_node *node, const fm_value *caller) {
    fm_value callee = fm_evaluate(run, frame, node->a);
    fm_arguments arguments = collect(run, frame, node, caller);
    return fm_call(run, callee, &arguments);
}

static __attribute__((noinline)) fm_value apply(fm_run *run, fm_frame *frame, const fm_node *node) {
    const fm_interpreter *interpreter = run->interpreter;
    fm_value self = node->a ? fm_evaluate(run, frame, node->a) : interpreter->block;
    fm_arguments arguments = collect(run, frame, node, NULL);
    if (!node->function) {
        fm_refuse(run, FM_EUNSUPPORTED, "no %s named '%.*s'", node->kind == FM_NODE_FILTER ? "filter" : "test", shown(node->name), node->name->data);
    }
    return fm_call_function(run, node->function, self, &arguments);
}

static __attribute__((noinline)) fm_value compare(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_value left = fm_evaluate(run, frame, node->a);
    for (size_t i = 0; i < node->n; i++) {
        fm_value right = fm_evaluate(run, frame, node->items[i]);
        bool holds = false;
        int order;
        run->line = node->line;
        switch (node->operators[i]) {
        case '=': holds = fm_equal(run, left, right); break;
        case FM_NOT_EQUAL: holds = !fm_equal(run, left, right); break;
        case '<': holds = fm_order_of(run, left, right, "<") == -1; break;
        case '>': holds = fm_order_of(run, left, right, ">") == 1; break;
        case FM_LESS_EQUAL:
            order = fm_order_of(run, left, right, "<=");
            holds = order == -1 || order == 0;
            break;
        case FM_GREATER_EQUAL:
            order = fm_order_of(run, left, right, ">=");
            holds = order == 1 || order == 0;
            break;
        case FM_IN: holds = fm_contains(run, right, left); break;
        default: holds = !fm_contains(run, right, left);
        }
        if (!holds) return fm_bool(false);
        left = right;
    }
    return fm_bool(true);
}

static __attribute__((noinline)) fm_value slice(fm_run *run, fm_frame *frame, fm_value of, const fm_node *node) {
    fm_value bounds[3] = {0};
    for (size_t i = 0; i < 3; i++) {
        if (node->items[i]) bounds[i] = fm_evaluate(run, frame, node->items[i]);
    }
    run->line = node->line;
    switch (of.type) {
    case FM_STRING:
    case FM_LIST:
    case FM_TUPLE:
    case FM_RANGE: return fm_slice(run, of, bounds);
    case FM_UNDEFINED: fm_refuse_use(run, of);
    case FM_DICT: fm_refuse(run, FM_EFORMAT, "unhashable type: 'slice'");
    default: fm_refuse(run, FM_EFORMAT, "'%s' object is not subscriptable", fm_type_name(of));
    }
}

static __attribute__((noinline)) fm_value make_list(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_list *list = fm_list_new(run, node->n);
    for (size_t i = 0; i < node->n; i++) fm_list_add(run, list, fm_evaluate(run, frame, node->items[i]));
    return fm_of_list(node->kind == FM_NODE_LIST ? FM_LIST : FM_TUPLE, list);
}

static __attribute__((noinline)) fm_value make_dict(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_dict *dict = fm_dict_new(run);
    for (size_t i = 0; i < node->n; i += 2) {
        fm_value key = fm_evaluate(run, frame, node->items[i]), value = fm_evaluate(run, frame, node->items[i + 1]);
        run->line = node->line;
        fm_dict_set(run, dict, key, value);
    }
    return fm_of_dict(FM_DICT, dict);
}

static __attribute__((noinline)) fm_value concat(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_value *parts = fm_take(run, node->n * sizeof *parts);
    for (size_t i = 0; i < node->n; i++) parts[i] = fm_evaluate(run, frame, node->items[i]);
    const fm_text *text = fm_str(run, parts[0]);
    for (size_t i = 1; i < node->n; i++) text = fm_concat(run, text, fm_str(run, parts[i]));
    if (!text->markup) return fm_string(text);
    fm_text *plain = fm_take(run, sizeof *plain);
    *plain = *text;
    plain->markup = false;
    return fm_string(plain);
}

static __attribute__((noinline)) fm_value condition(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_value test = fm_evaluate(run, frame, node->a);
    if (fm_true(&test)) return fm_evaluate(run, frame, node->b);
    if (node->c) return fm_evaluate(run, frame, node->c);
    return fm_undefined(run, "the inline if-expression on line %d evaluated to false and no else section was defined.", node->line);
}

static fm_value variable(fm_frame *frame, const fm_node *node) {
    fm_value value = fm_frame_up(frame, node->up)->slots[node->slot];
    return value.type == FM_MISSING ? node->value : value;
}

/* a[b], a.b, and what else takes one or two values. */
static fm_value operate(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_value a = fm_evaluate(run, frame, node->a), b = fm_none();
    if (node->kind == FM_NODE_ITEM && node->b->kind == FM_NODE_SLICE) return slice(run, frame, a, node->b);
    if (node->b) b = fm_evaluate(run, frame, node->b);
    run->line = node->line;
    switch (node->kind) {
    case FM_NODE_ATTRIBUTE: return fm_attribute(run, a, node->name);
    case FM_NODE_ITEM: return fm_item(run, a, b);
    case FM_NODE_NEGATIVE: return fm_negative(run, a, true);
    case FM_NODE_POSITIVE: return fm_negative(run, a, false);
    default: return fm_arithmetic(run, node->operator, a, b);
    }
}

fm_value fm_evaluate(fm_run *run, fm_frame *frame, const fm_node *node) {
    fm_value value;
    fm_charge(run, 0);
    switch (node->kind) {
    case FM_NODE_CONSTANT: return node->value;
    case FM_NODE_NAME: return variable(frame, node);
    case FM_NODE_LIST:
    case FM_NODE_TUPLE: return make_list(run, frame, node);
    case FM_NODE_DICT: return make_dict(run, frame, node);
    case FM_NODE_CALL: return fm_evaluate_call(run, frame, node, NULL);
    case FM_NODE_FILTER:
    case FM_NODE_TEST: return apply(run, frame, node);
    case FM_NODE_COMPARE: return compare(run, frame, node);
    case FM_NODE_CONCAT: return concat(run, frame, node);
    case FM_NODE_CONDITION: return condition(run, frame, node);
    case FM_NODE_NOT: value = fm_evaluate(run, frame, node->a); return fm_bool(!fm_true(&value));
    case FM_NODE_AND:
    case FM_NODE_OR: value = fm_evaluate(run, frame, node->a); return fm_true(&value) == (node->kind == FM_NODE_OR) ? value : fm_evaluate(run, frame, node->b);
    case FM_NODE_SLICE: fm_refuse(run, FM_EUNSUPPORTED, "a slice among several subscripts");
    default: return operate(run, frame, node);
    }
}
