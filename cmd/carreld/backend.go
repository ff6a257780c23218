package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/internal/durable"
	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/admin"
	"github.com/carrel-sh/carrel/session/broker"
	"github.com/carrel-sh/carrel/session/events"
	"github.com/carrel-sh/carrel/session/keeper"
)

// backend answers the administrator's command, and users about their own
// containers.
type backend struct {
	broker *broker.Broker
	boxes  *sandbox.Manager
	keeper *keeper.Keeper
	events *events.Log
	// closure is the file that keeps a shut door shut over a restart, and over
	// the reboot that maintenance is often for.
	closure string
}

// Containers lists what runs.
func (b *backend) Containers(ctx context.Context, quick bool) ([]admin.Container, error) {
	list := []admin.Container{}
	for _, c := range b.boxes.Running() {
		list = append(list, describe(ctx, c, quick))
	}
	return list, nil
}

func describe(ctx context.Context, c *sandbox.Container, quick bool) admin.Container {
	d := admin.Container{
		User: c.User, UID: c.UID, Image: c.Image, State: admin.StateRunning, Started: c.Started, InitPID: c.InitPID,
		RangeFirst: c.RangeFirst,
		Limits: admin.Limits{
			MemoryBytes: c.Limits.MemoryBytes, SwapBytes: max(c.Limits.SwapBytes, 0), CPUWeight: c.Limits.CPUWeight,
			CPUQuotaMicros: c.Limits.CPUQuotaMicros, Pids: c.Limits.Pids,
		},
	}
	switch c.Paused() {
	case sandbox.Idle:
		d.State = admin.StateFrozen
	case sandbox.Suspended:
		d.State = admin.StateSuspended
	default:
		if !quick {
			count(ctx, c, &d)
		}
	}
	if usage, err := c.Usage(); err == nil {
		d.MemoryBytes, d.SwapBytes, d.CPUMicros, d.Pids = usage.MemoryBytes, usage.SwapBytes, usage.CPU.Microseconds(), usage.Pids
	}
	for _, u := range c.Unenforced {
		d.Unenforced = append(d.Unenforced, u.String())
	}
	return d
}

// count asks the container's init for its sessions. A container that does not
// answer must not hold up the list.
func count(ctx context.Context, c *sandbox.Container, d *admin.Container) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if pong, err := broker.Ping(ctx, c); err == nil {
		d.Sessions = int(pong.Sessions)
	} else {
		d.State = admin.StateUnresponsive
	}
}

// Known lists who has files.
func (b *backend) Known() ([]uint32, error) { return b.boxes.Known() }

// errEnded is for a container that ended between being listed and being asked.
var errEnded = errors.New("the container has ended")

// Inspect tells all about one container.
func (b *backend) Inspect(ctx context.Context, uid uint32) (admin.Detail, error) {
	c := b.boxes.Find(uid)
	if c == nil {
		return admin.Detail{}, errEnded
	}
	layer, _ := b.boxes.Paths(uid)
	d := admin.Detail{
		Container: describe(ctx, c, true), ImageID: c.ImageID, Cgroup: c.Cgroup(), Layer: layer, Home: c.HomePath, Used: b.keeper.Used(uid),
		FreezeAfter: config.FormatIdle(c.Idle.Freeze), StopAfter: config.FormatIdle(c.Idle.Stop),
		SessionList: []admin.Session{}, Processes: []admin.Process{},
	}
	if e, err := c.Events(); err == nil {
		d.OOMKills = e.OOMKills
	}
	live, err := keeper.Sessions(ctx, c)
	if err != nil {
		d.SessionsNote = err.Error()
	}
	d.Sessions = len(live)
	for _, s := range live {
		d.SessionList = append(d.SessionList, admin.Session{
			ID: uint64(s.ID), PID: int(s.PID), Started: time.UnixMilli(int64(s.Started)).UTC(), Terminal: s.Terminal,
		})
	}
	processes, err := c.Processes()
	if err != nil {
		return admin.Detail{}, err
	}
	for _, p := range processes {
		d.Processes = append(d.Processes, admin.Process(p))
	}
	return d, nil
}

// Act does what root wants done to one user.
func (b *backend) Act(ctx context.Context, uid uint32, r admin.Request) (int, error) {
	switch r.Op {
	case admin.OpStop:
		b.keeper.Because(uid, "by root")
		return 0, b.broker.Stop(ctx, uid)
	case admin.OpReset:
		return 0, b.discard(ctx, uid, false, events.Event{Kind: events.Reset, Detail: "by root"})
	case admin.OpRemove:
		detail := "by root; home kept"
		if r.Home {
			detail = "by root, with home"
		}
		return 0, b.discard(ctx, uid, r.Home, events.Event{Kind: events.Remove, Detail: detail})
	}
	c := b.boxes.Find(uid)
	if c == nil {
		return 0, errEnded
	}
	return b.actOn(ctx, c, r)
}

// actOn does what needs a container.
func (b *backend) actOn(ctx context.Context, c *sandbox.Container, r admin.Request) (n int, err error) {
	e := events.Event{User: c.User, UID: c.UID, Detail: "by root"}
	switch r.Op {
	case admin.OpFreeze:
		e.Kind = events.Freeze
		err = c.Freeze(ctx, sandbox.Suspended)
	case admin.OpThaw:
		e.Kind = events.Thaw
		var was bool
		if was, err = c.Thaw(); err == nil && !was {
			return 0, nil
		}
		n = 1
	case admin.OpKill:
		e.Kind, e.Session = events.Kill, session.ID(r.Session)
		n, err = c.Signal(ctx, unix.Signal(r.Signal), e.Session)
		e.Detail = fmt.Sprintf("by root: signal %d to %d processes", r.Signal, n)
	case admin.OpWall:
		e.Kind = events.Wall
		n, err = keeper.Tell(ctx, c, r.Message)
		e.Detail = fmt.Sprintf("to %d terminals: %s", n, r.Message)
	default:
		return 0, fmt.Errorf("BUG: operation %q", r.Op)
	}
	if err == nil {
		b.events.Add(e)
	}
	return n, err
}

// discard stops a container and gives up the user's layer.
func (b *backend) discard(ctx context.Context, uid uint32, home bool, e events.Event) error {
	if c := b.boxes.Find(uid); c != nil {
		e.User = c.User
	}
	b.keeper.Because(uid, string(e.Kind)+" "+e.Detail)
	had := false
	err := b.broker.Alone(ctx, uid, func() (err error) {
		if home {
			if err := b.broker.Greetings.Forget(uid); err != nil {
				return err
			}
		}
		had, err = b.boxes.Discard(uid, home)
		return err
	})
	if e.UID = uid; err == nil && had {
		b.events.Add(e)
	}
	return err
}

// Events hands over what happened, and what happens.
func (b *backend) Events(ctx context.Context, follow bool, begun func() error, yield func(events.Event) error) error {
	if !follow {
		return b.events.Read(yield)
	}
	return b.events.Tail(ctx, begun, yield)
}

// Maintenance shuts the door, opens it, or says how it is.
func (b *backend) Maintenance(m *admin.Maintenance) (admin.Maintenance, error) {
	if m != nil {
		if err := b.shut(m); err != nil {
			return admin.Maintenance{}, err
		}
	}
	c := b.broker.Closed()
	if c == nil {
		return admin.Maintenance{}, nil
	}
	return admin.Maintenance{On: true, Message: c.Message, AllowFiles: c.AllowFiles, Since: c.Since}, nil
}

func (b *backend) shut(m *admin.Maintenance) error {
	if !m.On {
		if err := os.Remove(b.closure); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		b.broker.Close(nil)
		b.events.Add(events.Event{Kind: events.Maintenance, Detail: "off"})
		return nil
	}
	c := &broker.Closure{Message: session.Printable(m.Message, 256), AllowFiles: m.AllowFiles, Since: time.Now().UTC().Round(time.Second)}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := writeFile(b.closure, text); err != nil {
		return err
	}
	b.broker.Close(c)
	b.events.Add(events.Event{Kind: events.Maintenance, Detail: "on: " + c.Message})
	return nil
}

// reopen finds the door as it was left.
func (b *backend) reopen() error {
	text, err := os.ReadFile(b.closure)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	c := &broker.Closure{}
	if err == nil {
		err = json.Unmarshal(text, c)
	}
	if err != nil {
		return fmt.Errorf("maintenance: %w", err)
	}
	b.broker.Close(c)
	return nil
}

// writeFile writes a file that appears whole, and stays over a power cut.
func writeFile(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
