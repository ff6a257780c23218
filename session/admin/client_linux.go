package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"golang.org/x/sys/unix"
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

// Stop stops the containers of users, names or decimal uids. The result has
// an entry for each.
func (c *Client) Stop(ctx context.Context, users ...string) ([]Stopped, error) {
	r, err := c.do(ctx, Request{Op: OpStop, Users: users})
	return r.Stopped, err
}

// StopAll stops all containers. The result has an entry for each.
func (c *Client) StopAll(ctx context.Context) ([]Stopped, error) {
	r, err := c.do(ctx, Request{Op: OpStop, All: true})
	return r.Stopped, err
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
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED):
		err = ErrNotRunning
	case errors.Is(err, fs.ErrPermission):
		err = ErrNotRoot
	case err == nil && response.Failure != nil && response.Failure.Code == CodeDenied:
		err = ErrNotRoot
	case err == nil && response.Failure != nil:
		err = response.Failure
	}
	if err != nil {
		return Response{}, fmt.Errorf("ask carreld at %q: %w", c.Path, err)
	}
	return response, nil
}

// exchange sends the request and reads the answer.
func (c *Client) exchange(ctx context.Context, r Request) (Response, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return Response{}, err
	}
	if len(line) >= maxRequestBytes {
		return Response{}, errors.New("too many users at once")
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout+2*requestTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Path)
	if err != nil {
		return Response{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(append(line, '\n')); err != nil && !errors.Is(err, unix.EPIPE) {
		return Response{}, ctxErr(ctx, err)
	}
	line, err = readLine(conn, maxResponseBytes)
	if err != nil {
		return Response{}, ctxErr(ctx, err)
	}
	var response Response
	if err := json.Unmarshal(line, &response); err != nil {
		return Response{}, fmt.Errorf("answer: %w", err)
	}
	if response.Version != Version {
		return Response{}, fmt.Errorf("answer has protocol version %d, not %d", response.Version, Version)
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
