package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/session/events"
)

// fake is a daemon with containers that are plain entries.
type fake struct {
	mu         sync.Mutex
	containers []Container
	stopped    []uint32
	stubborn   uint32 // cannot be stopped
	listErr    error
	hang       chan struct{} // Containers waits for it, or for its ctx; nil: no waiting

	kept   Maintenance
	past   []events.Event
	coming chan events.Event
	acted  []string

	inStop, mostStops atomic.Int32
}

func (f *fake) Containers(ctx context.Context, quick bool) ([]Container, error) {
	if f.hang != nil {
		select {
		case <-f.hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.containers), f.listErr
}

func (f *fake) Known() ([]uint32, error) { return []uint32{1001, 4711}, nil }

func (f *fake) Inspect(_ context.Context, uid uint32) (Detail, error) {
	if uid == f.stubborn {
		return Detail{}, errors.New("it does not answer")
	}
	return Detail{Container: Container{UID: uid}, Cgroup: "/carrel/x", SessionList: []Session{{ID: 1<<63 + 1}}}, nil
}

func (f *fake) Maintenance(m *Maintenance) (Maintenance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m != nil {
		f.kept = *m
	}
	return f.kept, nil
}

func (f *fake) Events(ctx context.Context, follow bool, begun func() error, yield func(events.Event) error) error {
	for i := range f.past {
		if err := yield(f.past[i]); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	if err := begun(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-f.coming:
			if err := yield(e); err != nil {
				return err
			}
		}
	}
}

func (f *fake) Act(ctx context.Context, uid uint32, r Request) (int, error) {
	if r.Op != OpStop {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.acted = append(f.acted, fmt.Sprintf("%s %d signal %d session %d home %v %q", r.Op, uid, r.Signal, r.Session, r.Home, r.Message))
		return 3, nil
	}
	return 0, f.stop(ctx, uid)
}

func (f *fake) stop(_ context.Context, uid uint32) error {
	f.mostStops.Store(max(f.mostStops.Load(), f.inStop.Add(1)))
	defer f.inStop.Add(-1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if uid == f.stubborn {
		return errors.New("it does not end")
	}
	f.stopped = append(f.stopped, uid)
	f.containers = slices.DeleteFunc(f.containers, func(c Container) bool { return c.UID == uid })
	return nil
}

func containers(users ...string) []Container {
	var list []Container
	for i, user := range users {
		list = append(list, Container{
			User: user, UID: uint32(1000 + i), Image: "host", State: StateRunning,
			Started: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Sessions: i, InitPID: 100 + i, MemoryBytes: 1 << 20, Pids: 2,
			Limits: Limits{MemoryBytes: 2 << 30, CPUWeight: 100, Pids: 512}, Unenforced: []string{"swap: no controller"}, RangeFirst: 1879048192,
		})
	}
	return list
}

// serve starts a server of f for the test's own uid and returns its socket.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v; want nil after its context ended", err)
		}
	})
	return path
}

func server(f *fake) *Server {
	return &Server{Backend: f, Version: "v1.2.3", PeerUID: uint32(os.Geteuid())}
}

func TestListenIsPrivate(t *testing.T) {
	path := serve(t, server(&fake{}))
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket = %v, %v; want 0600", st.Mode(), err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("Listen on a path that exists succeeds")
	}
}

func TestContainers(t *testing.T) {
	f := &fake{containers: containers("bob", "alice")}
	c := Client{Path: serve(t, server(f))}
	got, err := c.Containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := containers("bob", "alice")
	want[0], want[1] = want[1], want[0]
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Containers (-want +got):\n%s", diff)
	}
}

func TestStatus(t *testing.T) {
	c := Client{Path: serve(t, server(&fake{containers: containers("alice")}))}
	got, err := c.Status(t.Context())
	if err != nil || got.Version != "v1.2.3" || got.PID != os.Getpid() || got.Containers != 1 || time.Since(got.Started) > time.Minute {
		t.Errorf("Status = %+v, %v", got, err)
	}
}

func TestStop(t *testing.T) {
	f := &fake{containers: containers("alice", "bob", "carol"), stubborn: 1001}
	c := Client{Path: serve(t, server(f))}
	got, err := c.Act(t.Context(), Request{Op: OpStop, Users: []string{"1002", "bob", "dora"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Result{
		{User: "carol", UID: 1002, Ran: true}, {User: "bob", UID: 1001, Ran: true, Error: "it does not end"}, {User: "dora"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Stop (-want +got):\n%s", diff)
	}
	got, err = c.Act(t.Context(), Request{Op: OpStop, All: true})
	want = []Result{{User: "alice", UID: 1000, Ran: true}, {User: "bob", UID: 1001, Ran: true, Error: "it does not end"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("StopAll = %v (-want +got):\n%s", err, diff)
	}
	if !slices.Equal(f.stopped, []uint32{1002, 1000}) {
		t.Errorf("stopped %v", f.stopped)
	}
}

func TestStopManyAtOnce(t *testing.T) {
	var users []string
	for i := range 200 {
		users = append(users, fmt.Sprintf("u%d", i))
	}
	f := &fake{containers: containers(users...)}
	got, err := (&Client{Path: serve(t, server(f))}).Act(t.Context(), Request{Op: OpStop, All: true})
	if err != nil || len(got) != 200 || len(f.stopped) != 200 {
		t.Errorf("StopAll stopped %d of %d, %v", len(f.stopped), len(got), err)
	}
	if n := f.mostStops.Load(); n > maxStops {
		t.Errorf("%d at the same time; want at most %d", n, maxStops)
	}
}

func TestBackendFails(t *testing.T) {
	c := Client{Path: serve(t, server(&fake{listErr: errors.New("no state directory")}))}
	_, err := c.Containers(t.Context())
	if failure, ok := errors.AsType[*Failure](err); !ok || failure.Code != CodeInternal || !strings.Contains(err.Error(), "no state directory") {
		t.Errorf("Containers = %v", err)
	}
	// A time that JSON has no form for must not end the daemon.
	f := &fake{containers: []Container{{User: "alice", Started: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}}}
	c = Client{Path: serve(t, server(f))}
	if _, err := c.Containers(t.Context()); err == nil {
		t.Error("Containers with an impossible time succeeds")
	}
}

func TestOnlyThePeerIsAnswered(t *testing.T) {
	s := server(&fake{containers: containers("alice")})
	s.PeerUID++ // not us
	var log bytes.Buffer
	s.Logger = slog.New(slog.NewJSONHandler(&log, nil))
	c := Client{Path: serve(t, s)}
	if got, err := c.Containers(t.Context()); !errors.Is(err, ErrNotRoot) || got != nil {
		t.Errorf("Containers = %v, %v; want %v", got, err, ErrNotRoot)
	}
	if !strings.Contains(log.String(), "denied") {
		t.Errorf("log = %q; want the denial", log.String())
	}
}

func TestNobodyListens(t *testing.T) {
	dir := t.TempDir()
	c := Client{Path: filepath.Join(dir, "none.sock")}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v; want %v", err, ErrNotRunning)
	}
	c.Path = filepath.Join(dir, "dead.sock")
	l, err := Listen(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dead socket: %v; want %v", err, ErrNotRunning)
	}
}

// talk sends text and returns what the server says to it.
func talk(t *testing.T, path, text string) Response {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(text)) // the server may have hung up in the middle
	_ = conn.(*net.UnixConn).CloseWrite()
	line, err := readLine(conn, maxResponseBytes)
	if err != nil {
		t.Fatalf("answer to %.60q: %v", text, err)
	}
	var r Response
	if err := json.Unmarshal(line, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBadRequests(t *testing.T) {
	f := &fake{containers: containers("alice")}
	path := serve(t, server(f))
	for name, text := range map[string]string{
		"nothing":          "",
		"no newline":       `{"version":1,"op":"ps"}`,
		"not JSON":         "hello\n",
		"array":            "[]\n",
		"null":             "null\n",
		"another version":  `{"version":2,"op":"ps","more":1}` + "\n",
		"no version":       `{"op":"ps"}` + "\n",
		"no operation":     `{"version":1}` + "\n",
		"unknown op":       `{"version":1,"op":"explode"}` + "\n",
		"unknown field":    `{"version":1,"op":"ps","force":true}` + "\n",
		"two values":       `{"version":1,"op":"stop","all":true}{}` + "\n",
		"users of ps":      `{"version":1,"op":"ps","users":["a"]}` + "\n",
		"stop nobody":      `{"version":1,"op":"stop"}` + "\n",
		"stop both":        `{"version":1,"op":"stop","all":true,"users":["alice"]}` + "\n",
		"wall of nothing":  `{"version":1,"op":"wall","all":true}` + "\n",
		"wall too long":    `{"version":1,"op":"wall","all":true,"message":"` + strings.Repeat("a", 1025) + `"}` + "\n",
		"no signal":        `{"version":1,"op":"kill","all":true}` + "\n",
		"signal of 65":     `{"version":1,"op":"kill","all":true,"signal":65}` + "\n",
		"signal of stop":   `{"version":1,"op":"stop","all":true,"signal":9}` + "\n",
		"home of reset":    `{"version":1,"op":"reset","all":true,"home":true}` + "\n",
		"events of nobody": `{"version":1,"op":"events"}` + "\n",
		"long message":     `{"version":1,"op":"maintenance","maintenance":{"on":true,"message":"` + strings.Repeat("a", 257) + `"}}` + "\n",
		"wrong type":       `{"version":1,"op":"stop","all":"yes"}` + "\n",
		"binary":           "\x00\x01\x02\xff\xfe\n",
		"oversized":        `{"version":1,"op":"stop","users":["` + strings.Repeat("a", maxRequestBytes) + `"]}` + "\n",
		"endless":          strings.Repeat("x", 4*maxRequestBytes),
		"deep":             strings.Repeat("[", 60_000) + "\n",
		"escape sequences": "{\"version\":1,\"op\":\"\\u001b]0;x\\u0007\"}\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := talk(t, path, text)
			if r.Failure == nil || r.Failure.Code != CodeInvalid || r.Version != Version {
				t.Errorf("answer = %+v; want code %q", r, CodeInvalid)
			}
			if strings.ContainsAny(r.Failure.Message, "\x1b\x07\n") {
				t.Errorf("message %q is not safe to print", r.Failure.Message)
			}
		})
	}
	if len(f.stopped) > 0 {
		t.Errorf("stopped %v", f.stopped)
	}
	// The twin: the server still answers, and the largest request is taken.
	padding := strings.Repeat(" ", maxRequestBytes-len(`{"version":1,"op":"ps"}`)-1)
	if r := talk(t, path, `{"version":1,"op":"ps"}`+padding+"\n"); r.Failure != nil || len(r.Containers) != 1 {
		t.Errorf("largest request: %+v", r)
	}
}

// TestSlowClients: callers that say nothing hold nobody up, and shutting down
// does not wait for them.
func TestSlowClients(t *testing.T) {
	path := serve(t, server(&fake{containers: containers("alice")}))
	for range maxConns - 1 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write([]byte(`{"version":`))
	}
	start := time.Now()
	if got, err := (&Client{Path: path}).Containers(t.Context()); err != nil || len(got) != 1 {
		t.Errorf("Containers = %v, %v", got, err)
	}
	if took := time.Since(start); took > requestTimeout {
		t.Errorf("took %v; want less than the slow ones may take", took)
	}
}

func TestClientGivesUp(t *testing.T) {
	f := &fake{hang: make(chan struct{})}
	c := Client{Path: serve(t, server(f))}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Containers(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Containers = %v; want %v", err, context.DeadlineExceeded)
	}
	if _, err := c.Act(t.Context(), Request{Op: OpStop, Users: []string{strings.Repeat("a", maxRequestBytes)}}); err == nil {
		t.Error("Stop of a name without end succeeds")
	}
}

// TestServeEnds: Serve returns soon although a request is being answered and
// another is not sent.
func TestServeEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- server(&fake{hang: make(chan struct{})}).Serve(ctx, l) }()
	idle, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	answer := make(chan error)
	go func() {
		_, err := (&Client{Path: path}).Containers(t.Context())
		answer <- err
	}()
	time.Sleep(50 * time.Millisecond)
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Serve = %v", err)
		}
	case <-time.After(requestTimeout / 2):
		t.Fatal("Serve did not return")
	}
	if err := <-answer; err == nil {
		t.Error("the request that was interrupted succeeds")
	}
}

// TestClientChecksAnswers of something that is not carreld.
func TestClientChecksAnswers(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "not JSON": "hello\n", "another version": `{"version":9}` + "\n", "no status": `{"version":1}` + "\n",
		"unfinished": `{"version":1`,
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Listen(filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				if conn, err := l.Accept(); err == nil {
					_, _ = readLine(conn, maxRequestBytes)
					_, _ = conn.Write([]byte(text))
					conn.Close()
				}
			}()
			if got, err := (&Client{Path: l.Addr().String()}).Status(t.Context()); err == nil {
				t.Errorf("Status = %+v; want an error", got)
			}
		})
	}
}

// FuzzDecodeRequest asserts that what is accepted is a request of this version
// that its own encoding brings back, and that no stop is ambiguous.
func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"op":"ps"}`))
	f.Add([]byte(`{"version":1,"op":"stop","users":["alice","1000"]}`))
	f.Add([]byte(`{"version":1,"op":"stop","all":true}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err != nil {
			return
		}
		if r.Version != Version || r.Op == OpStop && (len(r.Users) > 0) == r.All || r.Op != OpStop && (r.All || len(r.Users) > 0) {
			t.Fatalf("decodeRequest(%q) = %+v", line, r)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeRequest(again); err != nil || back.Op != r.Op || !slices.Equal(back.Users, r.Users) || back.All != r.All {
			t.Fatalf("decodeRequest(%q) = %+v, %v; want %+v", again, back, err, r)
		}
	})
}

func TestAct(t *testing.T) {
	f := &fake{containers: containers("alice", "bob")}
	c := Client{Path: serve(t, server(f))}
	for _, tt := range []struct {
		r    Request
		want []Result
		did  []string
	}{
		{Request{Op: OpKill, Users: []string{"bob"}, Signal: 15, Session: 1<<63 + 7},
			[]Result{{User: "bob", UID: 1001, Ran: true, Count: 3}}, []string{`kill 1001 signal 15 session 9223372036854775815 home false ""`}},
		{Request{Op: OpWall, Users: []string{"1000"}, Message: "hi"},
			[]Result{{User: "alice", UID: 1000, Ran: true, Count: 3}}, []string{`wall 1000 signal 0 session 0 home false "hi"`}},
		// Files: by uid alone, with or without a container.
		{Request{Op: OpRemove, Users: []string{"4711", "1001", "1000", "bob"}, Home: true},
			[]Result{{User: "4711", UID: 4711, Ran: true, Count: 3}, {User: "bob", UID: 1001, Ran: true, Count: 3}, {User: "1000"}, {User: "bob"}},
			[]string{`rm 1001 signal 0 session 0 home true ""`, `rm 4711 signal 0 session 0 home true ""`}},
		{Request{Op: OpReset, All: true},
			[]Result{{User: "bob", UID: 1001, Ran: true, Count: 3}, {User: "4711", UID: 4711, Ran: true, Count: 3}},
			[]string{`reset 1001 signal 0 session 0 home false ""`, `reset 4711 signal 0 session 0 home false ""`}},
	} {
		f.acted = nil
		got, err := c.Act(t.Context(), tt.r)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", tt.r.Op, err, diff)
		}
		slices.Sort(f.acted)
		if diff := cmp.Diff(tt.did, f.acted); diff != "" {
			t.Errorf("%s did (-want +got):\n%s", tt.r.Op, diff)
		}
	}
	known, err := c.Known(t.Context())
	if err != nil || !slices.Equal(known, []uint32{1001, 4711}) {
		t.Errorf("Known = %v, %v", known, err)
	}
}

func TestInspect(t *testing.T) {
	f := &fake{containers: containers("alice", "bob"), stubborn: 1001}
	c := Client{Path: serve(t, server(f))}
	details, rest, err := c.Inspect(t.Context(), []string{"alice", "bob", "dora"}, false)
	if err != nil || len(details) != 1 || details[0].UID != 1000 || details[0].SessionList[0].ID != 1<<63+1 {
		t.Errorf("Inspect = %+v, %v", details, err)
	}
	if diff := cmp.Diff([]Result{{User: "bob", UID: 1001, Ran: true, Error: "it does not answer"}, {User: "dora"}}, rest); diff != "" {
		t.Errorf("the others (-want +got):\n%s", diff)
	}
}

func TestMaintenance(t *testing.T) {
	c := Client{Path: serve(t, server(&fake{}))}
	want := Maintenance{On: true, Message: "noon", AllowFiles: true}
	if got, err := c.Keep(t.Context(), want); err != nil || got != want {
		t.Errorf("Keep = %+v, %v", got, err)
	}
	if got, err := c.Maintenance(t.Context()); err != nil || got != want {
		t.Errorf("Maintenance = %+v, %v", got, err)
	}
}

func TestEvents(t *testing.T) {
	at := time.Date(2026, 11, 21, 6, 0, 0, 0, time.UTC)
	f := &fake{coming: make(chan events.Event), past: []events.Event{
		{Time: at, Kind: events.Start, UID: 1}, {Time: at.Add(time.Hour), Kind: events.Login, UID: 1}, {Time: at.Add(2 * time.Hour), Kind: events.Login, UID: 2},
	}}
	c := Client{Path: serve(t, server(f))}
	read := func(q EventQuery) (got []uint32) {
		t.Helper()
		if err := c.Events(t.Context(), q, func(e events.Event) error { got = append(got, e.UID); return nil }); err != nil {
			t.Error(err)
		}
		return got
	}
	for _, tt := range []struct {
		q    EventQuery
		want []uint32
	}{
		{EventQuery{}, []uint32{1, 1, 2}},
		{EventQuery{UIDs: []uint32{2}}, []uint32{2}},
		{EventQuery{Kinds: []events.Kind{events.Login}}, []uint32{1, 2}},
		{EventQuery{Since: at.Add(time.Hour)}, []uint32{1, 2}},
	} {
		if got := read(tt.q); !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v; want %v", tt.q, got, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got []uint32
	go func() { f.coming <- events.Event{Time: at.Add(3 * time.Hour), Kind: events.Stop, UID: 3} }()
	err := c.Events(ctx, EventQuery{Follow: true, Since: at.Add(2 * time.Hour)}, func(e events.Event) error {
		if got = append(got, e.UID); e.UID == 3 {
			cancel()
		}
		return nil
	})
	if err != nil || !slices.Equal(got, []uint32{2, 3}) {
		t.Errorf("followed %v, %v", got, err)
	}
	// Followers leave room for others, and give their place back.
	deadline := time.Now().Add(10 * time.Second)
	for range 3 * maxFollowers {
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			err := c.Events(ctx, EventQuery{Follow: true}, func(events.Event) error { return nil })
			cancel()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	var held sync.WaitGroup
	ctx, cancel = context.WithCancel(t.Context())
	for range maxFollowers {
		held.Go(func() {
			for ctx.Err() == nil { // the probe below may have had the place
				_ = c.Events(ctx, EventQuery{Follow: true}, func(events.Event) error { return nil })
			}
		})
	}
	full := func() bool {
		one, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := c.Events(one, EventQuery{Follow: true}, func(events.Event) error { return nil })
		return err != nil && strings.Contains(err.Error(), "too many")
	}
	for !full() {
		if time.Now().After(deadline) {
			t.Error("there is no bound on followers")
			break
		}
	}
	cancel()
	held.Wait()
}
