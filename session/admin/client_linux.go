package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session/events"
)

// Why there is no answer. The client wraps these.
var (
	// ErrNotRunning: nobody listens on the socket.
	ErrNotRunning = errors.New("carreld is not running")
	// ErrNotRoot: the socket is root's.
	ErrNotRoot = errors.New("only root may ask carreld")
)

// A Client asks the carreld that listens on Path. Each method makes a
// connection of its own and gives up when ctx ends, or after a time in which
// carreld would have answered.
type Client struct {
	Path string
}

// Containers lists the running containers by user.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	r, err := c.do(ctx, Request{Op: OpPS})
	return r.Containers, err
}

// Usage lists the running containers by user, as they are in the kernel's
// books: it disturbs none of them, but does not know their sessions.
func (c *Client) Usage(ctx context.Context) ([]Container, error) {
	r, err := c.do(ctx, Request{Op: OpTop})
	return r.Containers, err
}

// Known lists the uids that have files here.
func (c *Client) Known(ctx context.Context) ([]uint32, error) {
	r, err := c.do(ctx, Request{Op: OpKnown})
	return r.Known, err
}

// Act has done to users what the request says, whose Version is filled in.
// The result has an entry for each of its Users, or with All for each that
// there is.
func (c *Client) Act(ctx context.Context, r Request) ([]Result, error) {
	response, err := c.do(ctx, r)
	return response.Results, err
}

// Inspect tells all about the containers of users, names or decimal uids, or
// with all of everybody. What there is none of has a result in place of a
// detail.
func (c *Client) Inspect(ctx context.Context, users []string, all bool) ([]Detail, []Result, error) {
	r, err := c.do(ctx, Request{Op: OpInspect, Users: users, All: all})
	return r.Details, r.Results, err
}

// Maintenance asks whether new sessions are kept out; Keep changes it.
func (c *Client) Maintenance(ctx context.Context) (Maintenance, error) {
	return c.maintenance(ctx, nil)
}

// Keep keeps new sessions out, or lets them in.
func (c *Client) Keep(ctx context.Context, m Maintenance) (Maintenance, error) {
	return c.maintenance(ctx, &m)
}

func (c *Client) maintenance(ctx context.Context, m *Maintenance) (Maintenance, error) {
	r, err := c.do(ctx, Request{Op: OpMaintenance, Maintenance: m})
	if err == nil && r.Maintenance == nil {
		err = fmt.Errorf("ask carreld at %q: answer without a state", c.Path)
	}
	if err != nil {
		return Maintenance{}, err
	}
	return *r.Maintenance, nil
}

// Events hands over what the query wants, oldest first. With Follow it returns
// when ctx or carreld ends, without an error, or when yield fails.
func (c *Client) Events(ctx context.Context, q EventQuery, yield func(events.Event) error) error {
	conn, err := c.send(ctx, Request{Version: Version, Op: OpEvents, Events: &q})
	if err != nil {
		return fmt.Errorf("ask carreld at %q: %w", c.Path, clientErr(err))
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxRequestBytes)
	for lines.Scan() {
		var r Response
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		if err := failure(r); err != nil {
			return fmt.Errorf("ask carreld at %q: %w", c.Path, err)
		}
		if r.Event == nil {
			continue // the line that says that following has begun
		}
		if err := yield(*r.Event); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return lines.Err()
}

// Status says who answers.
func (c *Client) Status(ctx context.Context) (Status, error) {
	r, err := c.do(ctx, Request{Op: OpStatus})
	if err == nil && r.Status == nil {
		err = fmt.Errorf("ask carreld at %q: answer without a status", c.Path)
	}
	if err != nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// do sends the request and returns the answer, or a *Failure.
func (c *Client) do(ctx context.Context, r Request) (Response, error) {
	r.Version = Version
	response, err := c.exchange(ctx, r)
	if err == nil {
		err = failure(response)
	}
	if err != nil {
		return Response{}, fmt.Errorf("ask carreld at %q: %w", c.Path, clientErr(err))
	}
	return response, nil
}

// failure returns what the server says is wrong.
func failure(r Response) error {
	switch {
	case r.Version != Version:
		return fmt.Errorf("answer has protocol version %d, not %d", r.Version, Version)
	case r.Failure == nil:
		return nil
	case r.Failure.Code == CodeDenied:
		return ErrNotRoot
	}
	return r.Failure
}

// clientErr says in this package's words why nobody was reached.
func clientErr(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED):
		return ErrNotRunning
	case errors.Is(err, fs.ErrPermission):
		return ErrNotRoot
	}
	return err
}

// send connects and sends the request.
func (c *Client) send(ctx context.Context, r Request) (net.Conn, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(line) >= maxRequestBytes {
		return nil, errors.New("too many users at once")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Path)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(append(line, '\n')); err != nil && !errors.Is(err, unix.EPIPE) {
		conn.Close()
		return nil, ctxErr(ctx, err)
	}
	return conn, nil
}

// exchange sends the request and reads the answer.
func (c *Client) exchange(ctx context.Context, r Request) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout+2*requestTimeout)
	defer cancel()
	conn, err := c.send(ctx, r)
	if err != nil {
		return Response{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	line, err := readLine(conn, maxResponseBytes)
	if err != nil {
		return Response{}, ctxErr(ctx, err)
	}
	var response Response
	if err := json.Unmarshal(line, &response); err != nil {
		return Response{}, fmt.Errorf("answer: %w", err)
	}
	return response, nil
}

// ctxErr returns why ctx ended, if it did, instead of the time-out that this
// caused.
func ctxErr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
