package broker

import (
	"context"

	"github.com/carrel-sh/carrel/sandbox"
)

// A Manager is the containers of this host, as a Broker asks for them.
type Manager struct{ *sandbox.Manager }

// Find returns the running container of uid, nil if there is none.
func (m Manager) Find(uid uint32) container { return orNil(m.Manager.Find(uid)) }

// Start starts the container of s.User.
func (m Manager) Start(ctx context.Context, s sandbox.Spec) (container, error) {
	c, err := m.Manager.Start(ctx, s)
	return orNil(c), err
}

// orNil keeps a nil pointer from becoming an interface that is not nil.
func orNil(c *sandbox.Container) container {
	if c == nil {
		return nil
	}
	return running{c}
}

// running is a container that tells what a Broker asks.
type running struct{ *sandbox.Container }

// Owner is the name of the user that the container was started for.
func (r running) Owner() string { return r.User }
