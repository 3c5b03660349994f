// embed.cpp: the library in C++: owners that close, errors as exceptions, a lambda for each piece of an answer.  embed MODEL QUESTION
#include <flash_moe.h>

#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

template <typename T, void (*close)(T **)> struct closer {
    void operator()(T *p) const { close(&p); }
};
using engine_ptr = std::unique_ptr<fm_engine, closer<fm_engine, fm_engine_close>>;
using session_ptr = std::unique_ptr<fm_session, closer<fm_session, fm_session_close>>;
using chat_ptr = std::unique_ptr<fm_chat, closer<fm_chat, fm_chat_close>>;

static int check(int rc, const fm_error &err) {
    if (rc < 0) throw std::runtime_error(err.message);
    return rc;
}

class model {
  public:
    explicit model(const std::string &directory) {
        fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
        fm_engine *engine;
        fm_session *session;
        fm_chat *chat;
        fm_error err = {};
        check(fm_engine_open(&engine, directory.c_str(), &options, &err), err);
        engine_.reset(engine);
        check(fm_session_open(&session, engine, &err), err);
        session_.reset(session);
        check(fm_chat_open(&chat, engine, nullptr, &err), err);
        chat_.reset(chat);
    }

    // request: messages in OpenAI's form; returns how many tokens the answer has.
    int answer(const std::string &request, std::function<void(const std::string &)> text) {
        fm_answer_options options = FM_ANSWER_OPTIONS_INIT;
        fm_sampling greedy = FM_SAMPLING_INIT;
        fm_answered done;
        fm_error err = {};
        options.max_tokens = 60;
        options.user = &text;
        options.event = [](void *user, const fm_event *event) {
            if (event->type == FM_EVENT_TEXT) (*static_cast<std::function<void(const std::string &)> *>(user))(std::string(event->text, event->bytes));
            return 0;
        };
        check(fm_chat_answer(chat_.get(), session_.get(), request.c_str(), &greedy, &options, &done, &err), err);
        fm_free(done.message);
        return done.n_tokens;
    }

  private: // closed from the last to the first
    engine_ptr engine_;
    session_ptr session_;
    chat_ptr chat_;
};

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    try {
        model m(argv[1]);
        std::string request = std::string("{\"messages\": [{\"role\": \"user\", \"content\": \"") + argv[2] + "\"}]}";
        int n = m.answer(request, [](const std::string &text) { std::cout << text << std::flush; });
        std::cout << "\n[" << n << " tokens]\n";
    } catch (const std::exception &e) {
        std::cerr << e.what() << ".\n";
        return 1;
    }
}
