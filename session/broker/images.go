package broker

import (
	"context"
	"time"

	"github.com/carrel-sh/carrel/imagestore"
)

// refreshTime is how old the known state of an image may be before a login
// has it looked up again.
const refreshTime = 2 * time.Second

const refreshDelay = 50 * time.Millisecond

// A known image is what the store last said of it.
type known struct {
	mounts imagestore.Mounts
	at     time.Time
	busy   bool // a look-up is under way
}

// mounts returns what the image is made of, and whether that is the store's
// word of now. A login into a running container wants to know only whether the
// image has changed and does not wait for the store: it gets what is known, and
// the store is asked again behind it. Nothing is started from that: its layers
// may be gone.
func (b *Broker) mounts(ctx context.Context, name string, running bool) (m imagestore.Mounts, fresh bool, err error) {
	if running {
		b.mu.Lock()
		k := b.images[name]
		var mounts imagestore.Mounts
		stale := false
		if k != nil {
			mounts = k.mounts
			if stale = !k.busy && time.Since(k.at) > refreshTime; stale {
				k.busy = true
			}
		}
		b.mu.Unlock()
		if stale {
			// When this login is through: it has the machine to itself until then.
			time.AfterFunc(refreshDelay, func() {
				defer b.survive(func() { b.forget(name) })
				_, _ = b.lookUp(context.WithoutCancel(ctx), name)
			})
		}
		if k != nil {
			return mounts, false, nil
		}
	}
	m, err = b.lookUp(ctx, name)
	return m, true, err
}

func (b *Broker) forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.images, name)
}

// lookUp asks the store and remembers. An image that cannot be had is
// forgotten.
func (b *Broker) lookUp(ctx context.Context, name string) (imagestore.Mounts, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	mounts, err := b.Images.Mounts(ctx, name)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		delete(b.images, name)
		return mounts, err
	}
	b.images[name] = &known{mounts: mounts, at: time.Now()}
	return mounts, nil
}
