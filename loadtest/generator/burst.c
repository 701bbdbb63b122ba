/* burst: HTTP/1.1 load from one thread over up to 10,000 keep-alive connections, counted to the last answer.
 *
 * One loop waits for sockets; one system call reads an answer and one sends the next request. What decides a number:
 * requests and statuses belong to the phase in which they were answered, latencies to that in which they were sent. */

#define _GNU_SOURCE

#include "parts.h"
#include "items.h"

#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

enum mode { POST, KEYED, MESSAGES, GET, BATCH, BATCH_LINES, BATCH_KEYED };
enum phase { OPENING, WARM_UP, WINDOW, DRAIN, PHASES };
enum state { CLOSED, CONNECTING, FREE, BUSY, PAUSED, GONE }; /* GONE: closed, to be opened again after a pause */
enum { WRITE_MESSAGE, READ_MESSAGE, DELETE_MESSAGE };

enum { CONNECTIONS_MAX = 10000, OPENING_AT_ONCE = 64, EVENTS_AT_ONCE = 256, STATUSES = 1000, TEXT_SIZE = 20 };
static const uint64_t MILLISECOND = 1000000, SECOND = 1000000000, NEVER = UINT64_MAX;
#define PAUSE (10 * MILLISECOND)        /* after a refusal or a lost connection, so that neither spins */
#define OPENING_STALLED (10 * SECOND)   /* outlasts the kernel's repeats of a SYN after 1, 3 and 7 s */
#define DRAIN_MAX (10 * SECOND)
#define DRAIN_MAX_INTERRUPTED (1 * SECOND)

static const char USAGE[] =
    "{\"patientId\": \"100\", \"timestamp\": \"Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)\", "
    "\"medication\": \"Albuterol\"}";

static const char HELP[] =
    "burst --port P --connections N --seconds S [options]: HTTP/1.1 load; its results are JSON lines on stdout\n"
    "\n"
    "  --host H            127.0.0.1\n"
    "  --port P\n"
    "  --connections N     1 to 10000, all opened before the clock starts\n"
    "  --seconds S         length of the measured window; afterwards up to 10 s for the answers still due\n"
    "  --warmup S          load before the window (0)\n"
    "  --mode M            post: POST, 201 expected (default)\n"
    "                      keyed: the same with a fresh UUIDv7 as Idempotency-Key\n"
    "                      messages: rounds of POST /messages, GET and DELETE /messages/<digest>, contents checked\n"
    "                      get: GET, 200 expected\n"
    "                      batch: POST of an array, each item's result checked and counted\n"
    "                      batch_lines: the same as NDJSON, a line for each item\n"
    "                      batch_keyed: the array's items each under a fresh UUIDv7\n"
    "  --items N           of a batch, 1 to 10000 (500)\n"
    "  --path PATH         of all but messages (/api/usages, of batches /api/usages/batch)\n"
    "  --body FILE         what is posted, or is each item of a batch (a usage)\n"
    "  --ids FILE          acknowledged integer ids of posts, as little-endian int64; overwritten\n"
    "  --rps R             R arrivals a second, whatever the answers; latency counts from the intended time\n"
    "                      (without it: each connection sends as soon as it is answered)\n"
    "  --tick US           pause for so many microseconds after each look at arrivals and sockets: a request leaves, and\n"
    "                      its answer is noted, up to that much later, for less of the CPU where arrivals are many\n"
    "  --progress          a line each interval of the window\n"
    "  --interval MS       length of an interval (1000)\n"
    "  --parent PID        end with this parent, however it ends\n";

struct request {
    char *bytes, *slot; /* slot: the key, text or digest that is written anew for each request; of a batch the first key */
    size_t size, stride; /* stride: from one key of a batch to the next */
};

struct connection {
    int fd;
    enum state state;
    int step;
    bool listed;       /* is in the queue of free ones */
    uint64_t sent_ns;  /* in an open loop, when it was meant to be sent */
    uint64_t wake_ns;
    char *rest;        /* of a request that the socket did not take at once */
    size_t rest_size, rest_at;
    char varied[DIGEST_SIZE]; /* what was written into the slot */
    char text[TEXT_SIZE];
    struct answer answer;
    struct items items; /* what a batch's answer says */
    char *keys;         /* of a batch's items */
};

/* A first-in first-out queue in which each connection is at most once. */
struct queue {
    struct connection **items;
    uint32_t head, count;
};

static struct {
    const char *host, *path, *body_file, *ids_file;
    enum mode mode;
    bool progress;
    uint32_t connections, items;
    uint64_t port, interval_ns, rps, tick_ns, parent;
    double seconds, warmup;
} options = {.host = "127.0.0.1", .items = 500, .interval_ns = 1000000000};

static struct {
    uint64_t by_status[STATUSES], acknowledged, items; /* items: of batches, created */
} tallies[PHASES];

static struct {
    uint64_t sent, unknown, items_unknown, duplicates, rounds, mismatches, without_id, reconnects, connect_errors, bytes_in, bytes_out;
} totals;

static struct histogram latencies;
static struct request requests[3];
static struct connection *connections;
static struct queue free_ones, paused;
static struct sockaddr_storage address;
static socklen_t address_size;
static int epoll_fd, signal_fd;
static char received[1 << 16];

static enum phase phase = OPENING;
static bool interrupted;
static uint32_t opening, opened, opened_most, untried;
static uint64_t opened_most_ns, begin_ns, window_ns, end_ns, deadline_ns, progress_ns, wall_ahead_ns;
static uint64_t in_flight, window_answers, reported_answers, arrivals, unsent;
static double cpu_at_start, cpu_in_window, wall_start, wall_end;

static void push(struct queue *queue, struct connection *connection) {
    queue->items[(queue->head + queue->count++) % options.connections] = connection;
}

static struct connection *pop(struct queue *queue) {
    struct connection *connection = queue->items[queue->head];
    queue->head = (queue->head + 1) % options.connections;
    queue->count--;
    return connection;
}

static bool is_batch(void) { return options.mode >= BATCH; }

/* ---- connections ---- */

static void watch(struct connection *connection, int operation, uint32_t events) {
    struct epoll_event event = {.events = events | EPOLLIN | EPOLLRDHUP, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, operation, connection->fd, &event)) fail(1, "epoll: %s", strerror(errno));
}

static void pause_connection(struct connection *connection, enum state state) {
    connection->state = state;
    connection->wake_ns = now_ns() + PAUSE;
    push(&paused, connection);
}

static void connect_failed(struct connection *connection, int error) {
    opening--;
    totals.connect_errors++;
    if (phase == OPENING && !opened_most && error == ECONNREFUSED)
        fail(1, "cannot connect to %s port %d: %s", options.host, (int)options.port, strerror(error));
    if (connection->fd >= 0) close(connection->fd);
    connection->fd = -1;
    pause_connection(connection, GONE);
}

static void open_connection(struct connection *connection) {
    static const int yes = 1;
    opening++;
    connection->state = CONNECTING;
    connection->fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0) {
        connect_failed(connection, errno);
        return;
    }
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    watch(connection, EPOLL_CTL_ADD, EPOLLOUT);
    if (connect(connection->fd, (struct sockaddr *)&address, address_size) && errno != EINPROGRESS)
        connect_failed(connection, errno);
}

/* Close it, and while there is load open it again: at once when that was in order, otherwise after a pause. */
static void close_connection(struct connection *connection, bool in_order) {
    bool was_paused = connection->state == PAUSED;
    if (phase == OPENING) opened--;
    close(connection->fd);
    connection->fd = -1;
    free(connection->rest);
    connection->rest = NULL;
    if (phase == DRAIN) {
        connection->state = CLOSED;
        return;
    }
    totals.reconnects++;
    if (was_paused) connection->state = GONE; /* it is in the queue already */
    else if (in_order) open_connection(connection);
    else pause_connection(connection, GONE);
}

/* A batch has no whole answer: what it said was created is, the rest may be. */
static void count_cut_off(struct connection *connection) {
    const struct items *items = &connection->items;
    uint64_t told = items->seen[CREATED] + items->seen[DUPLICATE] + items->seen[INVALID] + items->seen[RETRY];
    tallies[phase].items += items->seen[CREATED];
    totals.duplicates += items->seen[DUPLICATE];
    if (told < options.items) totals.items_unknown += options.items - told;
}

static void lost(struct connection *connection) {
    if (connection->state == BUSY) {
        in_flight--;
        totals.unknown++;
        if (is_batch()) count_cut_off(connection);
        connection->step = WRITE_MESSAGE;
    }
    close_connection(connection, false);
}

/* ---- requests ---- */

static void send_rest(struct connection *connection) {
    ssize_t sent = send(connection->fd, connection->rest + connection->rest_at,
                        connection->rest_size - connection->rest_at, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR) lost(connection);
        return;
    }
    totals.bytes_out += (size_t)sent;
    connection->rest_at += (size_t)sent;
    if (connection->rest_at < connection->rest_size) return;
    free(connection->rest);
    connection->rest = NULL;
    watch(connection, EPOLL_CTL_MOD, 0);
}

static void vary(struct connection *connection, struct request *request, uint64_t now) {
    size_t size = DIGEST_SIZE;
    if (options.mode == BATCH_KEYED) {
        for (size_t i = 0; i < options.items; i++) {
            write_uuid7(connection->keys + i * UUID_SIZE, (now + wall_ahead_ns) / MILLISECOND);
            memcpy(request->slot + i * request->stride, connection->keys + i * UUID_SIZE, UUID_SIZE);
        }
        return;
    }
    if (options.mode == KEYED) {
        size = UUID_SIZE;
        write_uuid7(connection->varied, (now + wall_ahead_ns) / MILLISECOND);
    } else if (connection->step == WRITE_MESSAGE) {
        size = TEXT_SIZE;
        write_random_text(connection->text, TEXT_SIZE);
        memcpy(connection->varied, connection->text, TEXT_SIZE);
    }
    memcpy(request->slot, connection->varied, size);
}

static void send_request(struct connection *connection, uint64_t intended, uint64_t now) {
    struct request *request = &requests[connection->step];
    if (request->slot) vary(connection, request, now);
    expect_answer(&connection->answer);
    if (is_batch()) expect_items(&connection->items);
    connection->state = BUSY;
    connection->sent_ns = intended;
    in_flight++;
    totals.sent++;
    ssize_t sent = send(connection->fd, request->bytes, request->size, MSG_NOSIGNAL);
    if (sent == (ssize_t)request->size) {
        totals.bytes_out += request->size;
        return;
    }
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        lost(connection);
        return;
    }
    size_t taken = sent < 0 ? 0 : (size_t)sent;
    totals.bytes_out += taken;
    connection->rest_at = 0;
    connection->rest_size = request->size - taken;
    connection->rest = room_for(1, connection->rest_size);
    memcpy(connection->rest, request->bytes + taken, connection->rest_size);
    watch(connection, EPOLL_CTL_MOD, EPOLLOUT);
}

/* When an arrival of the open loop is due; by division each time, so that rounding does not add up. */
static uint64_t arrival_ns(uint64_t number) {
    return begin_ns + number / options.rps * SECOND + number % options.rps * SECOND / options.rps;
}

/* A connection has nothing in flight: it takes what waits, or waits itself. */
static void set_free(struct connection *connection, uint64_t now) {
    connection->state = FREE;
    if (phase != WARM_UP && phase != WINDOW) return;
    if (!options.rps) {
        send_request(connection, now, now);
    } else if (arrival_ns(arrivals) <= now) {
        send_request(connection, arrival_ns(arrivals++), now);
    } else if (!connection->listed) {
        connection->listed = true;
        push(&free_ones, connection);
    }
}

static void send_arrivals(uint64_t now) {
    while (free_ones.count && arrival_ns(arrivals) <= now) {
        struct connection *connection = pop(&free_ones);
        connection->listed = false;
        if (connection->state == FREE) send_request(connection, arrival_ns(arrivals++), now);
    }
}

/* ---- answers ---- */

static bool body_holds(const struct connection *connection, const char *text, size_t size) {
    return memmem(connection->answer.body, connection->answer.body_length, text, size) != NULL;
}

static bool usage_is_right(struct connection *connection) {
    const struct answer *answer = &connection->answer;
    const char *value, *end = answer->body + answer->body_length;
    uint64_t id;
    if (options.mode == GET) return answer->status == 200;
    if (answer->status == 200 && options.mode == KEYED) {
        totals.duplicates++;
        return true;
    }
    if (answer->status != 201) return false;
    value = member(answer, "\"id\"");
    if (value && value < end && isdigit((unsigned char)*value) && read_number(value, end, 10, &id)) {
        note_id(id);
        return true;
    }
    if (options.mode == KEYED) return body_holds(connection, connection->varied, UUID_SIZE);
    totals.without_id++;
    return true;
}

static bool message_is_right(struct connection *connection) {
    const struct answer *answer = &connection->answer;
    if (connection->step == WRITE_MESSAGE) {
        char digest[DIGEST_SIZE + 2];
        const char *value = member(answer, "\"digest\""), *end = answer->body + answer->body_length;
        digest[0] = digest[DIGEST_SIZE + 1] = '"';
        write_sha256(digest + 1, connection->text, TEXT_SIZE);
        memcpy(connection->varied, digest + 1, DIGEST_SIZE);
        if (answer->status != 201 || !value || (size_t)(end - value) < sizeof digest) return false;
        return !memcmp(value, digest, sizeof digest);
    }
    if (answer->status != 200) return false;
    return connection->step == DELETE_MESSAGE || body_holds(connection, connection->text, TEXT_SIZE);
}

static bool refused(int status) { return status >= 500 || status == 429; }

/* What became of a batch's items. A stream that says it is not complete has stored nothing of what it did not answer. */
static void judge_batch(const struct connection *connection) {
    const struct items *items = &connection->items;
    int status = connection->answer.status;
    bool stream = options.mode == BATCH_LINES;
    if (status == 200) {
        bool right = items_are_right(items, options.items, stream) && !items->seen[INVALID];
        tallies[phase].items += items->seen[CREATED];
        totals.duplicates += items->seen[DUPLICATE];
        totals.items_unknown += items->seen[UNKNOWN];
        if (!right) totals.mismatches++;
        if (!(stream && items->incomplete) && items->results < options.items)
            totals.items_unknown += options.items - items->results;
    } else if (status == 500 || status == 502 || status == 504) {
        totals.items_unknown += options.items;
    } else if (!refused(status)) {
        totals.mismatches++;
    }
}

/* Check what was answered and choose what comes next. A refusal is no mismatch: it promises nothing. */
static void judge(struct connection *connection) {
    int status = connection->answer.status;
    if (is_batch()) {
        judge_batch(connection);
    } else if (options.mode != MESSAGES) {
        if (!refused(status) && !usage_is_right(connection)) totals.mismatches++;
    } else if (refused(status)) {
        /* 503 and 429: not done, so the same step again; after another failure it may be done, so a new round */
        if (status != 503 && status != 429) connection->step = WRITE_MESSAGE;
    } else if (!message_is_right(connection)) {
        totals.mismatches++;
        connection->step = WRITE_MESSAGE;
    } else {
        if (connection->step == DELETE_MESSAGE) totals.rounds++;
        connection->step = (connection->step + 1) % 3;
    }
}

static void answered(struct connection *connection, uint64_t now) {
    int status = connection->answer.status;
    in_flight--;
    tallies[phase].by_status[status]++;
    tallies[phase].acknowledged += status / 100 == 2;
    window_answers += phase == WINDOW;
    if (window_ns && connection->sent_ns >= window_ns) note_latency(&latencies, now - connection->sent_ns);
    judge(connection);
    connection->state = FREE;
    bool was_refused = refused(status) || (is_batch() && connection->items.seen[RETRY]);
    if (connection->answer.closes || connection->rest) {
        close_connection(connection, !was_refused);
    } else if (was_refused && phase != DRAIN) {
        pause_connection(connection, PAUSED);
    } else {
        set_free(connection, now);
    }
}

static void receive(struct connection *connection, bool peer_closes) {
    ssize_t size = recv(connection->fd, received, sizeof received, 0);
    uint64_t now = now_ns();
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        bool whole = size == 0 && connection->state == BUSY && connection->answer.stage == UNTIL_CLOSE;
        if (whole) answered(connection, now);
        else lost(connection);
        return;
    }
    totals.bytes_in += (size_t)size;
    const char *end = received + size;
    const char *at = connection->state == BUSY ? feed(&connection->answer, received, end) : NULL;
    if (!at) { /* no HTTP, or an answer to nothing */
        totals.mismatches++;
        lost(connection);
    } else if (connection->answer.stage == COMPLETE) {
        if (at < end) totals.mismatches++;
        if (at < end || (peer_closes && size < (ssize_t)sizeof received)) connection->answer.closes = true;
        answered(connection, now);
    }
}

static void handle(struct connection *connection, uint32_t events) {
    if (connection->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error || !(events & EPOLLOUT)) {
            connect_failed(connection, error);
            return;
        }
        opening--;
        watch(connection, EPOLL_CTL_MOD, 0);
        if (phase == OPENING && ++opened > opened_most) opened_most = opened, opened_most_ns = now_ns();
        set_free(connection, now_ns());
        return;
    }
    if (events & EPOLLOUT && connection->rest) send_rest(connection);
    if (connection->fd >= 0 && connection->state != CONNECTING && events & ~(uint32_t)EPOLLOUT)
        receive(connection, events & EPOLLRDHUP);
}

/* ---- phases ---- */

static double own_cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    if (fflush(stdout)) fail(1, "nobody reads the results");
}

static void start_window(uint64_t now) {
    phase = WINDOW;
    window_ns = now;
    deadline_ns = now + (uint64_t)(options.seconds * 1e9);
    progress_ns = options.progress ? now + options.interval_ns : NEVER;
    cpu_at_start = own_cpu_s();
    wall_start = (double)nanoseconds(CLOCK_REALTIME) / 1e9;
    say("{\"event\": \"start\"}\n");
}

static void begin(uint64_t now) {
    begin_ns = now;
    wall_ahead_ns = nanoseconds(CLOCK_REALTIME) - now;
    phase = WARM_UP;
    deadline_ns = now + (uint64_t)(options.warmup * 1e9);
    if (options.warmup <= 0) start_window(now);
    for (uint32_t i = 0; i < options.connections; i++)
        if (connections[i].state == FREE) set_free(&connections[i], now_ns());
}

static void report_progress(uint64_t now) {
    say("{\"event\": \"progress\", \"seconds\": %.6f, \"requests\": %lu}\n", (double)(now - window_ns) / 1e9,
        window_answers - reported_answers);
    reported_answers = window_answers;
}

static void drain(uint64_t now, uint64_t longest) {
    if (phase == WINDOW) {
        end_ns = now;
        cpu_in_window = own_cpu_s() - cpu_at_start;
        wall_end = (double)nanoseconds(CLOCK_REALTIME) / 1e9;
        if (options.progress && window_answers > reported_answers) report_progress(now);
        say("{\"event\": \"end\"}\n");
    }
    if (options.rps && (phase == WARM_UP || phase == WINDOW))
        while (arrival_ns(arrivals + unsent) < (now < deadline_ns ? now : deadline_ns)) unsent++;
    phase = DRAIN;
    deadline_ns = now + longest;
}

static void keep_opening(uint64_t now) {
    while (untried && opening < OPENING_AT_ONCE) open_connection(&connections[options.connections - untried--]);
    if (opened == options.connections) begin(now);
    else if (now - opened_most_ns > OPENING_STALLED)
        fail(1, "only %u of %u connections to %s port %d could be opened", opened_most, options.connections,
             options.host, (int)options.port);
}

static void keep_time(uint64_t now) {
    if (phase == OPENING) keep_opening(now);
    if (phase == WARM_UP && now >= deadline_ns) start_window(now);
    if (phase == WINDOW && now >= progress_ns) {
        report_progress(now);
        while (progress_ns <= now) progress_ns += options.interval_ns;
    }
    if (phase == WINDOW && now >= deadline_ns) drain(now, DRAIN_MAX);
    if (phase == DRAIN) return;
    while (paused.count && paused.items[paused.head]->wake_ns <= now) {
        struct connection *connection = pop(&paused);
        if (connection->state == PAUSED) set_free(connection, now);
        else open_connection(connection);
    }
    if (options.rps && phase != OPENING) send_arrivals(now);
}

static uint64_t next_time(uint64_t now) {
    uint64_t next = phase == OPENING ? now + SECOND : deadline_ns;
    if (phase == WINDOW && progress_ns < next) next = progress_ns;
    if (phase != DRAIN) {
        uint64_t wake = paused.count ? paused.items[paused.head]->wake_ns : NEVER;
        uint64_t arrival = free_ones.count ? arrival_ns(arrivals) : NEVER;
        if (wake < next) next = wake;
        if (arrival < next) next = arrival;
    }
    return next > now ? next - now : 0;
}

static void take_signal(void) {
    struct signalfd_siginfo signal;
    if (read(signal_fd, &signal, sizeof signal) != sizeof signal) return;
    drain(now_ns(), interrupted ? 0 : DRAIN_MAX_INTERRUPTED);
    interrupted = true;
}

static void run(void) {
    static struct epoll_event events[EVENTS_AT_ONCE];
    opened_most_ns = now_ns();
    untried = options.connections;
    for (int count = 0;;) {
        uint64_t now = now_ns();
        keep_time(now);
        if (phase == DRAIN && (!in_flight || now >= deadline_ns)) break;
        uint64_t wait_ns = next_time(now);
        int wait_ms = (int)((wait_ns + MILLISECOND - 1) / MILLISECOND);
        if (options.tick_ns) {
            struct timespec tick = {(time_t)(options.tick_ns / SECOND), (long)(options.tick_ns % SECOND)};
            if (count < EVENTS_AT_ONCE) nanosleep(&tick, NULL); /* otherwise there is more to look at */
            wait_ms = 0;
        } else if (options.rps) { /* epoll_wait counts in whole milliseconds, too coarse for arrivals */
            struct pollfd ready = {.fd = epoll_fd, .events = POLLIN};
            struct timespec wait = {(time_t)(wait_ns / SECOND), (long)(wait_ns % SECOND)};
            if (wait_ns) ppoll(&ready, 1, &wait, NULL);
            wait_ms = 0;
        }
        count = epoll_wait(epoll_fd, events, EVENTS_AT_ONCE, wait_ms);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr) handle(events[i].data.ptr, events[i].events);
            else take_signal();
        }
    }
    totals.unknown += in_flight;
    for (uint32_t i = 0; is_batch() && i < options.connections; i++)
        if (connections[i].state == BUSY) count_cut_off(&connections[i]);
}

/* ---- the result ---- */

static uint64_t print_statuses(const char *name, unsigned first, unsigned last) {
    const char *separator = "";
    uint64_t sum = 0;
    printf(", \"%s\": {", name);
    for (int status = 0; status < STATUSES; status++) {
        uint64_t count = 0;
        for (unsigned i = first; i <= last; i++) count += tallies[i].by_status[status];
        if (count) printf("%s\"%d\": %lu", separator, status, count), separator = ", ";
        sum += count;
    }
    printf("}");
    return sum;
}

static void print_count(const char *name, uint64_t count) { printf(", \"%s\": %lu", name, count); }

static void print_result(void) {
    double seconds = (double)(end_ns - window_ns) / 1e9;
    printf("{\"seconds\": %.9f", seconds);
    print_count("requests", window_answers);
    printf(", \"per_second\": %.3f", seconds > 0 ? (double)window_answers / seconds : 0.0);
    print_count("acknowledged", tallies[WINDOW].acknowledged);
    print_count("warmup_acknowledged", tallies[WARM_UP].acknowledged);
    print_count("drain_acknowledged", tallies[DRAIN].acknowledged);
    print_statuses("by_status", WINDOW, WINDOW);
    print_count("answered", print_statuses("total_by_status", WARM_UP, DRAIN));
    print_count("sent", totals.sent);
    print_count("unknown", totals.unknown);
    print_count("unsent", unsent);
    print_count("duplicates", totals.duplicates);
    print_count("batch", is_batch() ? options.items : 0);
    print_count("items", tallies[WINDOW].items);
    print_count("total_items", tallies[WARM_UP].items + tallies[WINDOW].items + tallies[DRAIN].items);
    print_count("items_unknown", totals.items_unknown);
    print_count("rounds", totals.rounds);
    print_count("mismatches", totals.mismatches);
    print_count("without_id", totals.without_id);
    print_count("connections", options.connections);
    print_count("reconnects", totals.reconnects);
    print_count("connect_errors", totals.connect_errors);
    print_count("bytes_in", totals.bytes_in);
    print_count("bytes_out", totals.bytes_out);
    printf(", \"cpu_s\": %.6f, \"started_wall\": %.6f, \"ended_wall\": %.6f", cpu_in_window, wall_start, wall_end);
    printf(", \"started_monotonic\": %.9f, \"ended_monotonic\": %.9f", (double)window_ns / 1e9, (double)end_ns / 1e9);
    const struct histogram *of = &latencies;
    printf(", \"latency_us\": {\"mean\": %.3f", of->count ? (double)of->sum_ns / 1e3 / (double)of->count : 0.0);
    print_count("count", of->count);
    print_count("p50", percentile(of, 0.5));
    print_count("p90", percentile(of, 0.9));
    print_count("p99", percentile(of, 0.99));
    print_count("p99_9", percentile(of, 0.999));
    print_count("p99_99", percentile(of, 0.9999));
    print_count("max", of->max_us);
    say("}, \"interrupted\": %s}\n", interrupted ? "true" : "false");
}

/* ---- the start ---- */

static void build_request(struct request *request, const char *method, const char *path, const char *tail,
                          const char *body, size_t body_size, const char *slot) {
    char *head = NULL;
    const char *bracket = strchr(options.host, ':') ? "[" : "";
    int size = asprintf(&head, "%s %s%s HTTP/1.1\r\nHost: %s%s%s:%lu\r\n", method, path, tail, bracket, options.host,
                        *bracket ? "]" : "", options.port);
    if (size < 0) fail(1, "out of memory");
    request->bytes = room_for(1, (size_t)size + body_size + 256);
    request->size = (size_t)sprintf(request->bytes, "%s", head);
    if (body)
        request->size += (size_t)sprintf(request->bytes + request->size,
                                         "Content-Type: application/%s\r\nContent-Length: %zu\r\n",
                                         options.mode == BATCH_LINES ? "x-ndjson" : "json", body_size);
    if (options.mode == KEYED)
        request->size += (size_t)sprintf(request->bytes + request->size, "Idempotency-Key: %36s\r\n", slot);
    memcpy(request->bytes + request->size, "\r\n", 2);
    request->size += 2;
    if (body) memcpy(request->bytes + request->size, body, body_size);
    request->size += body_size;
    if (slot) request->slot = memmem(request->bytes, request->size, slot, strlen(slot));
    free(head);
}

static char *read_file(const char *path, size_t *size) {
    size_t room = 1 << 16;
    FILE *file = fopen(path, "rb");
    if (!file) fail(2, "cannot read %s: %s", path, strerror(errno));
    char *bytes = malloc(room);
    for (*size = 0; bytes; bytes = realloc(bytes, room *= 2)) {
        *size += fread(bytes + *size, 1, room - *size, file);
        if (*size < room) break;
    }
    if (!bytes) fail(1, "out of memory");
    if (ferror(file)) fail(2, "cannot read %s", path);
    fclose(file);
    return bytes;
}

/* So many times the same item, as an array or as lines. */
static char *repeated(const char *usage, size_t usage_size, const char *key, size_t *size) {
    static const char before[] = "{\"idempotency_key\": \"", between[] = "\", \"usage\": ";
    bool lines = options.mode == BATCH_LINES;
    char *item = room_for(1, usage_size + sizeof before + UUID_SIZE + sizeof between + 2);
    size_t length = 0;
    if (key) length = (size_t)sprintf(item, "%s%s%s", before, key, between);
    memcpy(item + length, usage, usage_size);
    length += usage_size;
    if (key) item[length++] = '}';
    item[length++] = lines ? '\n' : ',';
    char *body = room_for(1, options.items * length + 2);
    *size = 0;
    if (!lines) body[(*size)++] = '[';
    for (uint32_t i = 0; i < options.items; i++, *size += length) memcpy(body + *size, item, length);
    if (!lines) body[*size - 1] = ']'; /* in the place of the last comma */
    requests[0].stride = length;
    free(item);
    return body;
}

static void build_requests(void) {
    static const char key[] = "####################################", text[] = "####################";
    static const char digest[] = "################################################################";
    static const char message[] = "{\"message\": \"####################\"}";
    if (options.mode == MESSAGES) {
        build_request(&requests[WRITE_MESSAGE], "POST", "/messages", "", message, sizeof message - 1, text);
        build_request(&requests[READ_MESSAGE], "GET", "/messages/", digest, NULL, 0, digest);
        build_request(&requests[DELETE_MESSAGE], "DELETE", "/messages/", digest, NULL, 0, digest);
    } else if (options.mode == GET) {
        build_request(&requests[0], "GET", options.path, "", NULL, 0, NULL);
    } else {
        size_t size = sizeof USAGE - 1;
        char *body = options.body_file ? read_file(options.body_file, &size) : NULL;
        const char *slot = options.mode == KEYED || options.mode == BATCH_KEYED ? key : NULL;
        if (options.mode == BATCH_LINES && body && memchr(body, '\n', size)) fail(2, "--body has more lines than one");
        if (is_batch()) {
            char *items = repeated(body ? body : USAGE, size, slot, &size);
            free(body);
            body = items;
        }
        build_request(&requests[0], "POST", options.path, "", body ? body : USAGE, size, slot);
        free(body);
    }
}

static double number(const char *name, const char *text, double least, double most, bool whole) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most) || (whole && value != (double)(int64_t)value))
        fail(2, "--%s is a %snumber from %g to %.10g, not %s", name, whole ? "whole " : "", least, most, text);
    return value;
}

static enum mode named_mode(const char *name) {
    static const char *const names[] = {"post", "keyed", "messages", "get", "batch", "batch_lines", "batch_keyed"};
    for (int mode = POST; mode <= BATCH_KEYED; mode++)
        if (!strcmp(name, names[mode])) return (enum mode)mode;
    fail(2, "--mode is post, keyed, messages, get, batch, batch_lines or batch_keyed, not %s", name);
}

static void read_options(int count, char **arguments) {
    static const struct option known[] = {
        {"host", 1, NULL, 'h'},    {"port", 1, NULL, 'p'},     {"connections", 1, NULL, 'c'}, {"seconds", 1, NULL, 's'},
        {"warmup", 1, NULL, 'w'},  {"mode", 1, NULL, 'm'},     {"path", 1, NULL, 'a'},        {"body", 1, NULL, 'b'},
        {"ids", 1, NULL, 'i'},     {"interval", 1, NULL, 'v'}, {"progress", 0, NULL, 'g'},    {"rps", 1, NULL, 'r'},
        {"tick", 1, NULL, 't'},    {"parent", 1, NULL, 'P'},  {"items", 1, NULL, 'n'}, {"help", 0, NULL, 'H'}, {NULL, 0, NULL, 0}};
    opterr = 0;
    for (int option; (option = getopt_long(count, arguments, ":", known, NULL)) != -1;) {
        switch (option) {
            case 'h': options.host = optarg; break;
            case 'p': options.port = (uint64_t)number("port", optarg, 1, 65535, true); break;
            case 'c': options.connections = (uint32_t)number("connections", optarg, 1, CONNECTIONS_MAX, true); break;
            case 's': options.seconds = number("seconds", optarg, 0.001, 1e6, false); break;
            case 'w': options.warmup = number("warmup", optarg, 0, 1e6, false); break;
            case 'm': options.mode = named_mode(optarg); break;
            case 'a': options.path = optarg; break;
            case 'b': options.body_file = optarg; break;
            case 'i': options.ids_file = optarg; break;
            case 'v': options.interval_ns = (uint64_t)number("interval", optarg, 1, 1e6, true) * MILLISECOND; break;
            case 'g': options.progress = true; break;
            case 'r': options.rps = (uint64_t)number("rps", optarg, 1, 1e7, true); break;
            case 't': options.tick_ns = (uint64_t)number("tick", optarg, 1, 1e6, true) * 1000; break;
            case 'n': options.items = (uint32_t)number("items", optarg, 1, ITEMS_MAX, true); break;
            case 'P': options.parent = (uint64_t)number("parent", optarg, 1, INT32_MAX, true); break;
            case ':': fail(2, "%s needs a value; --help lists the options", arguments[optind - 1]);
            case '?': fail(2, "there is no option %s; --help lists the options", arguments[optind - 1]);
            case 'H': fputs(HELP, stdout); exit(0);
        }
    }
    if (optind < count) fail(2, "%s is no option; --help lists the options", arguments[optind]);
    if (!options.port || !options.connections || options.seconds <= 0)
        fail(2, "--port, --connections and --seconds are needed");
    if (!options.path) options.path = is_batch() ? "/api/usages/batch" : "/api/usages";
    if (options.path[0] != '/' || strpbrk(options.path, " \t\r\n#")) fail(2, "--path begins with / and has no blanks");
    if ((options.mode == GET || options.mode == MESSAGES) && (options.body_file || options.ids_file))
        fail(2, "--body and --ids go with what is posted as usages");
}

static void resolve(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned)options.port);
    int error = getaddrinfo(options.host, port, &hints, &found);
    if (error) fail(2, "--host %s: %s", options.host, gai_strerror(error));
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    address_size = found->ai_addrlen;
    freeaddrinfo(found);
}

static void allow_descriptors(void) {
    enum { OTHERS = 16 };
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= options.connections + OTHERS) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < options.connections + OTHERS)
        fail(1, "%u connections are too many: the limit of file descriptors (ulimit -Hn) allows %ld",
             options.connections, limit.rlim_max > OTHERS ? (long)(limit.rlim_max - OTHERS) : 0L);
}

static void take_signals_in_order(void) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signal_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, signal_fd, &event)) fail(1, "signals: %s", strerror(errno));
}

int main(int count, char **arguments) {
    read_options(count, arguments);
    if (options.parent) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != (pid_t)options.parent) fail(1, "the parent has ended");
    }
    resolve();
    allow_descriptors();
    seed_random();
    build_requests();
    if (options.ids_file) open_ids(options.ids_file);
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) fail(1, "epoll: %s", strerror(errno));
    take_signals_in_order();
    prctl(PR_SET_TIMERSLACK, 1);
    connections = room_for(options.connections, sizeof *connections);
    free_ones.items = room_for(options.connections, sizeof *free_ones.items);
    paused.items = room_for(options.connections, sizeof *paused.items);
    for (uint32_t i = 0; is_batch() && i < options.connections; i++) {
        struct connection *connection = &connections[i];
        connection->answer.items = &connection->items;
        if (options.mode == BATCH_KEYED) connection->items.keys = connection->keys = room_for(options.items, UUID_SIZE);
    }
    run();
    write_ids();
    print_result();
    return 0;
}
