package keeper

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/events"
)

// A Keeper looks after containers. Set the fields, then call Adopt and Run.
type Keeper struct {
	// Running returns the containers that run, Find that of one user or nil.
	Running func() []*sandbox.Container
	Find    func(uid uint32) *sandbox.Container
	// StopIdle calls farewell, while no login comes in, and ends the container of
	// uid, unless that returns an error. With a login under way it does neither and
	// returns sandbox.ErrBusy.
	StopIdle func(ctx context.Context, uid uint32, farewell func() error) error
	Events   interface{ Add(events.Event) }
	// Own answers what a user asks from inside their container.
	Own    func(ctx context.Context, uid uint32, command string) (text string, status int)
	Logger *slog.Logger

	mu      sync.Mutex
	wards   map[uint32]*ward
	pending map[string][]string // what users, by name, are to be told at a terminal
}

// tick is between two looks at all containers. A look at one that took no CPU
// time costs the reading of one file.
const tick = 5 * time.Second

// A ward is one container in the keeper's care.
type ward struct {
	c *sandbox.Container

	// Guarded by Keeper.mu.
	used   time.Time     // last sign of use
	warned bool          // open terminals know what comes next
	frozen bool          // by the keeper
	why    string        // it is being stopped, for the event
	told   time.Time     // when the user last heard of the limit on processes
	cpu    time.Duration // at the last look
	own    time.Duration // of that, init's: answers to carreld are no use
	looked time.Time
}

// Adopt takes care of the containers that run already, before anybody logs in.
// They get no start event: an earlier carreld told it.
func (k *Keeper) Adopt() {
	for _, c := range k.Running() {
		k.ward(c, true)
	}
}

// Run looks after the containers until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(tick):
			k.look(ctx, time.Now())
		}
	}
}

// ward returns the entry of the container and makes it if need be.
func (k *Keeper) ward(c *sandbox.Container, adopted bool) *ward {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.wards[c.UID]; w != nil && w.c == c {
		return w
	}
	if k.wards == nil {
		k.wards, k.pending = make(map[uint32]*ward), make(map[string][]string)
	}
	now := time.Now()
	w := &ward{c: c, used: now, looked: now, frozen: c.Paused() == sandbox.Idle}
	k.wards[c.UID] = w
	if !adopted {
		k.Events.Add(events.Event{Time: c.Started, Kind: events.Start, User: c.User, UID: c.UID, Detail: "image " + c.Image})
	}
	if !adopted && c.HomeMissing() {
		k.Events.Add(events.Event{Time: c.Started, Kind: events.Home, User: c.User, UID: c.UID, Detail: "it did not answer; the container has none"})
	}
	go k.attend(w)
	return w
}

// attend stays with a container until it has ended.
func (k *Keeper) attend(w *ward) {
	go k.listen(w)
	<-w.c.Done()
	k.limits(w) // what ended it may have been the limit on memory
	k.mu.Lock()
	if k.wards[w.c.UID] == w {
		delete(k.wards, w.c.UID)
	}
	why := w.why
	k.mu.Unlock()
	k.Events.Add(events.Event{Kind: events.Stop, User: w.c.User, UID: w.c.UID, Detail: why})
}

// LoggedIn is told of each session, by its login, which is over.
func (k *Keeper) LoggedIn(uid uint32, id session.ID, terminal bool) {
	c := k.Find(uid)
	if c == nil {
		return // it has ended meanwhile
	}
	w := k.ward(c, false)
	k.mu.Lock()
	w.used, w.warned = time.Now(), false
	tell := terminal && len(k.pending[c.User]) > 0
	k.mu.Unlock()
	k.thawed(w, "login")
	detail := "without a terminal"
	if terminal {
		detail = "on a terminal"
	}
	k.Events.Add(events.Event{Kind: events.Login, User: c.User, UID: uid, Session: id, Detail: detail})
	if terminal && c.HomeMissing() {
		go func() { _, _ = Tell(context.Background(), c, homeSentence) }()
	}
	if tell {
		go k.tellPending(w)
	}
}

// Refused is told of each login that got no session, and why.
func (k *Keeper) Refused(uid uint32, why string) {
	k.Events.Add(events.Event{Kind: events.Refused, UID: uid, Detail: why})
}

// Awake is told that a user is there: it thaws what was idle.
func (k *Keeper) Awake(uid uint32) {
	c := k.Find(uid)
	if c == nil {
		return
	}
	w := k.ward(c, false)
	if _, err := c.Rouse(); err != nil {
		k.Logger.Error("thaw", "user", c.User, "err", err)
	}
	k.mu.Lock()
	w.used, w.warned = time.Now(), false
	k.mu.Unlock()
	k.thawed(w, "the user is there")
}

// thawed notes that a container runs on which the keeper froze.
func (k *Keeper) thawed(w *ward, why string) {
	runs := w.c.Paused() != sandbox.Idle // before mu: a freeze holds its lock for a while
	k.mu.Lock()
	was := w.frozen && runs
	if was {
		w.frozen, w.used = false, time.Now()
	}
	k.mu.Unlock()
	if was {
		k.Events.Add(events.Event{Kind: events.Thaw, User: w.c.User, UID: w.c.UID, Detail: why})
	}
}

// Because says why the container of uid is about to be stopped, for the
// event.
func (k *Keeper) Because(uid uint32, why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.wards[uid]; w != nil {
		w.why = why
	}
}

// Used returns when the container of uid was last used, as far as is known.
func (k *Keeper) Used(uid uint32) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.wards[uid]; w != nil {
		return w.used
	}
	return time.Time{}
}

// look looks at all containers.
func (k *Keeper) look(ctx context.Context, now time.Time) {
	for _, c := range k.Running() {
		select {
		case <-c.Done():
			continue // it is being cleaned up
		default:
			k.lookAt(ctx, k.ward(c, false), now)
		}
	}
}

func (k *Keeper) lookAt(ctx context.Context, w *ward, now time.Time) {
	k.thawed(w, "")
	if pause := w.c.Paused(); pause == sandbox.Suspended {
		return // root's to end
	} else if pause == "" {
		k.sample(w, now)
	}
	k.mu.Lock()
	next := w.next(now)
	if next == warnFreeze || next == warnStop {
		w.warned = true
	}
	k.mu.Unlock()
	k.act(ctx, w, next)
}

// sample finds out whether the container took CPU time.
func (k *Keeper) sample(w *ward, now time.Time) {
	usage, err := w.c.Usage()
	if err != nil {
		return // it is on its way out
	}
	own := w.own
	if usage.CPU != w.cpu { // nobody else changes it
		own = w.c.InitCPU()
	}
	k.mu.Lock()
	took := usage.CPU - w.cpu - max(own-w.own, 0)
	if took > quiet+now.Sub(w.looked)/10_000 {
		w.used, w.warned = now, false
	}
	news := usage.CPU != w.cpu
	w.cpu, w.own, w.looked = usage.CPU, own, now
	k.mu.Unlock()
	if news {
		k.limits(w)
	}
}

// quiet is CPU time that a container may take between two looks without being
// used.
const quiet = 2 * time.Millisecond

// limits tells the user what a limit did since the last look.
func (k *Keeper) limits(w *ward) {
	news, err := w.c.Unseen()
	if err != nil || news == (cgroup.Events{}) {
		return
	}
	k.explain(w, news)
}

// explain makes events and sentences of what the limits did.
func (k *Keeper) explain(w *ward, news cgroup.Events) {
	kind := events.OOM
	var text string
	switch {
	case news.OOMKills > 0:
		text = oomSentence(w.c.Limits.MemoryBytes)
	case news.PidsHits > 0:
		kind, text = events.Pids, pidsSentence(w.c.Limits.Pids)
		k.mu.Lock()
		again := time.Since(w.told) < pidsPause
		if !again {
			w.told = time.Now()
		}
		k.mu.Unlock()
		if again {
			return
		}
	default:
		return
	}
	k.Logger.Warn("limit reached", "user", w.c.User, "limit", string(kind), "kills", news.OOMKills, "forks", news.PidsHits)
	k.Events.Add(events.Event{Kind: kind, User: w.c.User, UID: w.c.UID, Detail: text})
	if n, err := Tell(context.Background(), w.c, text); err == nil && n > 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if list := k.pending[w.c.User]; !slices.Contains(list, text) && len(list) < maxPending {
		k.pending[w.c.User] = append(list, text)
	}
}

const (
	// pidsPause is how long a user who was told of their limit on processes is
	// left in peace: a loop of forks hits it all the time.
	pidsPause  = 5 * time.Minute
	maxPending = 4
)

// tellPending tells a user who has just logged in what is to be told.
func (k *Keeper) tellPending(w *ward) {
	k.mu.Lock()
	list := k.pending[w.c.User]
	delete(k.pending, w.c.User)
	k.mu.Unlock()
	for _, text := range list {
		if _, err := Tell(context.Background(), w.c, text); err != nil {
			k.Logger.Info("user not told", "user", w.c.User, "err", err)
		}
	}
}
