package main

import (
	"context"
	"time"

	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session/admin"
	"github.com/carrel-sh/carrel/session/broker"
)

// backend answers the administrator's command.
type backend struct {
	broker *broker.Broker
	boxes  *sandbox.Manager
}

// Stop ends the container of uid.
func (b *backend) Stop(ctx context.Context, uid uint32) error { return b.broker.Stop(ctx, uid) }

// Containers lists what runs.
func (b *backend) Containers(ctx context.Context) ([]admin.Container, error) {
	list := []admin.Container{}
	for _, c := range b.boxes.Running() {
		list = append(list, describe(ctx, c))
	}
	return list, nil
}

func describe(ctx context.Context, c *sandbox.Container) admin.Container {
	d := admin.Container{
		User: c.User, UID: c.UID, Image: c.Image, State: admin.StateRunning, Started: c.Started, InitPID: c.InitPID,
		RangeFirst: c.RangeFirst,
		Limits: admin.Limits{
			MemoryBytes: c.Limits.MemoryBytes, SwapBytes: max(c.Limits.SwapBytes, 0), CPUWeight: c.Limits.CPUWeight,
			CPUQuotaMicros: c.Limits.CPUQuotaMicros, Pids: c.Limits.Pids,
		},
	}
	// A container that does not answer must not hold up the list.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if pong, err := broker.Ping(ctx, c); err == nil {
		d.Sessions = int(pong.Sessions)
	} else {
		d.State = admin.StateUnresponsive
	}
	if usage, err := c.Usage(); err == nil {
		d.MemoryBytes, d.Pids = usage.MemoryBytes, usage.Pids
	}
	for _, u := range c.Unenforced {
		d.Unenforced = append(d.Unenforced, u.String())
	}
	return d
}
