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
	"time"

	"golang.org/x/sys/unix"
)

const (
	requestTimeout = 5 * time.Second // to send the request, and to take the answer
	answerTimeout  = 2 * time.Minute // to work it out; stopping waits for processes to end
	maxConns       = 32
	maxStops       = 16 // at the same time
)

// backend is the daemon behind a server. Both methods may be called
// concurrently and return soon after ctx ends.
type backend interface {
	// Containers lists what runs. The server sorts it.
	Containers(ctx context.Context) ([]Container, error)
	// Stop ends the container of uid and returns when it is gone. That none
	// runs is no error.
	Stop(ctx context.Context, uid uint32) error
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

	started time.Time
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
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	line, err := encode(s.respond(ctx, conn))
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
}

// encode returns r as the line that is sent.
func encode(r Response) ([]byte, error) {
	r.Version = Version
	line, err := json.Marshal(r)
	return append(line, '\n'), err
}

// respond works out the answer.
func (s *Server) respond(ctx context.Context, conn *net.UnixConn) Response {
	uid, err := peerUID(conn)
	if err != nil || uid != s.PeerUID {
		s.Logger.Warn("admin request denied", "uid", uid, "err", err)
		return fail(CodeDenied, "only root may ask carreld")
	}
	line, err := readLine(conn, maxRequestBytes)
	var request Request
	if err == nil {
		request, err = decodeRequest(line)
	}
	if err != nil {
		s.Logger.Warn("admin request not understood", "err", err)
		return fail(CodeInvalid, "request: "+err.Error())
	}
	return s.do(ctx, request)
}

func fail(code Code, message string) Response {
	return Response{Failure: &Failure{Code: code, Message: message}}
}

// do carries out a checked request.
func (s *Server) do(ctx context.Context, r Request) Response {
	containers, err := s.Backend.Containers(ctx)
	if err != nil {
		s.Logger.Error("list of containers", "err", err)
		return fail(CodeInternal, "list of containers: "+err.Error())
	}
	slices.SortFunc(containers, func(a, b Container) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.UID, b.UID))
	})
	switch r.Op {
	case OpStop:
		s.Logger.Info("stop requested", "users", r.Users, "all", r.All)
		return Response{Stopped: s.stop(ctx, choose(r, containers))}
	case OpStatus:
		return Response{Status: &Status{Version: s.Version, PID: os.Getpid(), Started: s.started, Containers: len(containers)}}
	}
	return Response{Containers: containers}
}

// choose returns an entry for each container that r wants stopped, and one
// for each user that has none.
func choose(r Request, containers []Container) []Stopped {
	var list []Stopped
	if r.All {
		for _, c := range containers {
			list = append(list, Stopped{User: c.User, UID: c.UID, Ran: true})
		}
		return list
	}
	for _, user := range r.Users {
		i := slices.IndexFunc(containers, func(c Container) bool {
			return c.User == user || strconv.FormatUint(uint64(c.UID), 10) == user
		})
		if i < 0 {
			list = append(list, Stopped{User: user})
			continue
		}
		list = append(list, Stopped{User: containers[i].User, UID: containers[i].UID, Ran: true})
	}
	return list
}

// stop stops what runs, some at a time.
func (s *Server) stop(ctx context.Context, list []Stopped) []Stopped {
	var all sync.WaitGroup
	room := make(chan struct{}, maxStops)
	for i := range list {
		if !list[i].Ran {
			continue
		}
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			if err := s.Backend.Stop(ctx, list[i].UID); err != nil {
				s.Logger.Error("stop", "user", list[i].User, "err", err)
				list[i].Error = err.Error()
			}
		})
	}
	all.Wait()
	return list
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
