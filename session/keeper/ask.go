package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/events"
)

// askTime bounds one exchange with an init.
const askTime = 2 * time.Second

// ErrFrozen says that a container does not answer because it is frozen.
var ErrFrozen = errors.New("the container is frozen")

// exchange sends a frame to the container's init and returns its answer.
func exchange(ctx context.Context, c *sandbox.Container, frame []byte) ([]byte, error) {
	if c.Paused() != "" {
		return nil, ErrFrozen
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := conn.Write(session.In(c.Protocol(), frame)); err != nil {
		return nil, err
	}
	buf := make([]byte, session.MaxFrame)
	n, err := conn.Read(buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// Tell writes a line to the open terminals of the container's sessions and
// returns how many took it. What is not printable becomes "?".
func Tell(ctx context.Context, c *sandbox.Container, text string) (int, error) {
	frame, err := exchange(ctx, c, session.Tell{Text: text}.Encode())
	if err != nil {
		return 0, err
	}
	told, err := session.DecodeTold(frame)
	return int(told.Terminals), err
}

// Sessions asks the container which sessions live, oldest first.
func Sessions(ctx context.Context, c *sandbox.Container) ([]session.Live, error) {
	frame, err := exchange(ctx, c, session.Sessions())
	if err != nil {
		return nil, err
	}
	list, err := session.DecodeListing(frame)
	if err != nil {
		return nil, err
	}
	return list.Sessions, nil
}

// relisten is how long after a connection ended that an init should have kept
// another one is made: an init of an older release never keeps one.
const relisten = time.Minute

// listen hears of the ends of sessions until the container ends.
func (k *Keeper) listen(w *ward) {
	for {
		conn, err := watch(w.c)
		if err == nil {
			k.hear(w, conn)
			conn.Close()
		}
		select {
		case <-w.c.Done():
			return
		case <-time.After(relisten):
		}
	}
}

func watch(c *sandbox.Container) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(session.In(c.Protocol(), session.Watch())); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// hear takes what comes until nothing comes any more.
func (k *Keeper) hear(w *ward, conn *net.UnixConn) {
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-w.c.Done():
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		case <-over:
		}
	}()
	buf := make([]byte, 8+18*max(session.MaxEnds, session.MaxOwn))
	for {
		n, err := conn.Read(buf)
		if err != nil || n == 0 {
			return
		}
		if session.KindOf(buf[:n]) == session.KindAsk {
			k.answer(w, buf[:n])
			continue
		}
		ended, err := session.DecodeEnded(buf[:n])
		if err != nil {
			return
		}
		for _, end := range ended.Ends {
			k.Events.Add(events.Event{
				Time: time.UnixMilli(int64(end.At)), Kind: events.Logout, User: w.c.User, UID: w.c.UID, Session: end.ID, Detail: how(end.Exit),
			})
		}
		k.limits(w)
	}
}

// askPause is between two answers to one container, which may ask all the
// time.
const askPause = 100 * time.Millisecond

// answer answers what is asked from inside. One question of a container is
// answered at a time, and its ends of sessions wait meanwhile.
func (k *Keeper) answer(w *ward, frame []byte) {
	question, err := session.DecodeAsk(frame)
	if err != nil || k.Own == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	text, status := k.Own(ctx, w.c.UID, question.Text)
	conn, err := w.c.Dial(ctx)
	if err != nil {
		return // it has ended, as by a reset
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(askTime))
	answer := session.Answer{Serial: question.Serial, Status: uint8(status), Text: text}
	_, _ = conn.Write(session.In(w.c.Protocol(), answer.Encode()))
	time.Sleep(askPause)
}

// how says how a session's first process ended.
func how(x session.Exit) string {
	if x.Signal != 0 {
		return "signal " + strconv.Itoa(int(x.Signal))
	}
	return "status " + strconv.Itoa(int(x.Status))
}

// homeSentence is for whoever logs in to a container without a home.
const homeSentence = "your home directory does not answer, so this session is without it; " +
	"please log out and try again later, or tell the administrator"

func oomSentence(limit int64) string {
	return "your processes were stopped: memory limit " + Amount(limit) + " reached"
}

func pidsSentence(limit int64) string {
	return fmt.Sprintf("some of your programs could not start: process limit %d reached", limit)
}

// Amount is bytes for a sentence: "2 GiB".
func Amount(n int64) string {
	for _, u := range []struct {
		name  string
		bytes int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.bytes {
			return strconv.FormatFloat(float64(n*10/u.bytes)/10, 'f', -1, 64) + " " + u.name
		}
	}
	return strconv.FormatInt(n, 10) + " bytes"
}
