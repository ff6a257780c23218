package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session/events"
)

const (
	requestTimeout = 5 * time.Second // to send the request, and to take the answer
	answerTimeout  = 2 * time.Minute // to work it out; stopping waits for processes to end
	maxConns       = 32
	maxFollowers   = 8  // of those; the others must get through
	maxStops       = 16 // at the same time
)

// backend is the daemon behind a server. Its methods may be called
// concurrently and return soon after ctx ends.
type backend interface {
	// Containers lists what runs; quick asks no container's init. The server
	// sorts it.
	Containers(ctx context.Context, quick bool) ([]Container, error)
	// Known lists who has files.
	Known() ([]uint32, error)
	// Inspect tells all about the container of uid.
	Inspect(ctx context.Context, uid uint32) (Detail, error)
	// Act does what r says to the user uid, and returns how many processes or
	// terminals that were. That there is nothing to act on is no error.
	Act(ctx context.Context, uid uint32, r Request) (int, error)
	// Events hands over all events since a time, and those that come until ctx
	// ends if follow is set; begun is called when none of these can be missed.
	Events(ctx context.Context, follow bool, begun func() error, yield func(events.Event) error) error
	// Maintenance keeps new sessions out, or not; nil only asks.
	Maintenance(m *Maintenance) (Maintenance, error)
}

// A Server answers administrators. Backend must be set; nothing may change
// once it serves.
type Server struct {
	Backend backend
	Logger  *slog.Logger // nil discards
	Version string       // of the daemon, for OpStatus
	// PeerUID is the only uid that is answered: 0, root, unless a test says
	// something else.
	PeerUID uint32

	started   time.Time
	followers atomic.Int32
}

// Listen makes the socket at path with mode 0600. It must not exist.
func Listen(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Between bind and chmod the umask decides. Who connects in between is
	// turned away by SO_PEERCRED.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve answers on l until ctx ends, and then closes l and waits for what is
// being answered. It returns nil then, and an error when l fails.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	s.started = time.Now()
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var conns sync.WaitGroup
	defer conns.Wait()
	room := make(chan struct{}, maxConns)
	for {
		room <- struct{}{}
		conn, err := l.AcceptUnix()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED):
			s.Logger.Warn("admin connection not accepted", "err", err)
			<-room
			time.Sleep(100 * time.Millisecond)
			continue
		default:
			return fmt.Errorf("accept administrators: %w", err)
		}
		conns.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			s.serve(ctx, conn)
		})
	}
}

// serve answers one request.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	request, refused := s.request(conn)
	stop()
	if refused == nil && request.Op == OpEvents {
		s.stream(ctx, conn, request.Events)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if refused != nil {
		s.answer(conn, *refused)
		return
	}
	s.answer(conn, s.do(ctx, request))
}

// answer sends one line, false if it was not taken.
func (s *Server) answer(conn *net.UnixConn, r Response) bool {
	line, err := encode(r)
	if err != nil { // a time that JSON cannot express, for one
		s.Logger.Error("admin answer", "err", err)
		line, err = encode(fail(CodeInternal, "answer: "+err.Error()))
	}
	_ = conn.SetWriteDeadline(time.Now().Add(requestTimeout))
	if err == nil {
		_, err = conn.Write(line)
	}
	if err != nil {
		s.Logger.Info("admin answer not taken", "err", err)
	}
	return err == nil
}

// errGone says that the client has hung up.
var errGone = errors.New("client has gone")

// stream answers OpEvents. A client that follows ends it by hanging up.
func (s *Server) stream(ctx context.Context, conn *net.UnixConn, q *EventQuery) {
	if q.Follow {
		if s.followers.Add(1) > maxFollowers {
			s.followers.Add(-1)
			s.answer(conn, fail(CodeInvalid, "too many others follow the events"))
			return
		}
		defer s.followers.Add(-1)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = conn.SetReadDeadline(time.Time{})
	go func() { // it has nothing more to say
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	begun := func() error { return nil }
	if q.Follow {
		begun = func() error {
			if !s.answer(conn, Response{}) {
				return errGone
			}
			return nil
		}
	}
	err := s.Backend.Events(ctx, q.Follow, begun, func(e events.Event) error {
		if ctx.Err() != nil || q.Wants(e) && !s.answer(conn, Response{Event: &e}) {
			return errGone
		}
		return nil
	})
	if err != nil && !errors.Is(err, errGone) && ctx.Err() == nil {
		s.answer(conn, fail(CodeInternal, "events: "+err.Error()))
	}
}

// encode returns r as the line that is sent.
func encode(r Response) ([]byte, error) {
	r.Version = Version
	line, err := json.Marshal(r)
	return append(line, '\n'), err
}

// request reads what the peer wants, or says why it gets nothing.
func (s *Server) request(conn *net.UnixConn) (Request, *Response) {
	refuse := func(code Code, message string) (Request, *Response) {
		r := fail(code, message)
		return Request{}, &r
	}
	uid, err := peerUID(conn)
	if err != nil || uid != s.PeerUID {
		s.Logger.Warn("admin request denied", "uid", uid, "err", err)
		return refuse(CodeDenied, "only root may ask carreld")
	}
	line, err := readLine(conn, maxRequestBytes)
	var request Request
	if err == nil {
		request, err = decodeRequest(line)
	}
	if err != nil {
		s.Logger.Warn("admin request not understood", "err", err)
		return refuse(CodeInvalid, "request: "+err.Error())
	}
	return request, nil
}

func fail(code Code, message string) Response {
	return Response{Failure: &Failure{Code: code, Message: message}}
}

// do carries out a checked request.
func (s *Server) do(ctx context.Context, r Request) Response {
	internal := func(what string, err error) Response {
		s.Logger.Error(what, "err", err)
		return fail(CodeInternal, what+": "+err.Error())
	}
	switch r.Op {
	case OpMaintenance:
		if r.Maintenance != nil {
			s.Logger.Info("maintenance", "on", r.Maintenance.On)
		}
		m, err := s.Backend.Maintenance(r.Maintenance)
		if err != nil {
			return internal("maintenance", err)
		}
		return Response{Maintenance: &m}
	case OpKnown:
		known, err := s.Backend.Known()
		if err != nil {
			return internal("list of users", err)
		}
		return Response{Known: known}
	}
	containers, err := s.Backend.Containers(ctx, r.Op != OpPS)
	if err != nil {
		return internal("list of containers", err)
	}
	slices.SortFunc(containers, func(a, b Container) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.UID, b.UID))
	})
	switch r.Op {
	case OpPS, OpTop:
		return Response{Containers: containers}
	case OpStatus:
		return Response{Status: &Status{Version: s.Version, PID: os.Getpid(), Started: s.started, Containers: len(containers)}}
	}
	list := choose(r, containers)
	if r.Op.files() {
		known, err := s.Backend.Known()
		if err != nil {
			return internal("list of users", err)
		}
		list = chooseKnown(r, containers, known)
	}
	if r.Op == OpInspect {
		return s.inspect(ctx, list)
	}
	s.Logger.Info("requested by root", "op", string(r.Op), "users", r.Users, "all", r.All)
	return Response{Results: s.act(ctx, r, list)}
}

// choose returns an entry for each container that r is about, and one for
// each user that has none.
func choose(r Request, containers []Container) []Result {
	var list []Result
	if r.All {
		for _, c := range containers {
			list = append(list, Result{User: c.User, UID: c.UID, Ran: true})
		}
		return list
	}
	for _, user := range r.Users {
		i := slices.IndexFunc(containers, func(c Container) bool {
			return c.User == user || strconv.FormatUint(uint64(c.UID), 10) == user
		})
		if i < 0 {
			list = append(list, Result{User: user})
			continue
		}
		list = append(list, Result{User: containers[i].User, UID: containers[i].UID, Ran: true})
	}
	return list
}

// chooseKnown is choose among those who have files; a container is not needed.
func chooseKnown(r Request, containers []Container, known []uint32) []Result {
	name := func(uid uint32) string {
		for _, c := range containers {
			if c.UID == uid {
				return c.User
			}
		}
		return strconv.FormatUint(uint64(uid), 10)
	}
	var list []Result
	if r.All {
		for _, uid := range known {
			list = append(list, Result{User: name(uid), UID: uid, Ran: true})
		}
		return list
	}
	for _, user := range r.Users {
		result := Result{User: user}
		if uid, err := strconv.ParseUint(user, 10, 32); err == nil && slices.Contains(known, uint32(uid)) {
			result = Result{User: name(uint32(uid)), UID: uint32(uid), Ran: true}
		}
		list = append(list, result)
	}
	return list
}

// act does it, to some at a time.
func (s *Server) act(ctx context.Context, r Request, list []Result) []Result {
	var all sync.WaitGroup
	room := make(chan struct{}, maxStops)
	for i := range list {
		if !list[i].Ran {
			continue
		}
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			n, err := s.Backend.Act(ctx, list[i].UID, r)
			list[i].Count = n
			if err != nil {
				s.Logger.Error(string(r.Op), "user", list[i].User, "err", err)
				list[i].Error = err.Error()
			}
		})
	}
	all.Wait()
	return list
}

// inspect tells of each container that there is.
func (s *Server) inspect(ctx context.Context, list []Result) Response {
	var r Response
	for _, one := range list {
		if !one.Ran {
			r.Results = append(r.Results, one)
			continue
		}
		d, err := s.Backend.Inspect(ctx, one.UID)
		if err != nil {
			one.Error = err.Error()
			r.Results = append(r.Results, one)
			continue
		}
		r.Details = append(r.Details, d)
	}
	return r
}

// peerUID returns the effective uid that the peer had when it connected.
func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, os.NewSyscallError("getsockopt SO_PEERCRED", credErr)
	}
	return cred.Uid, nil
}
