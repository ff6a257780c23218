package spawn

import (
	"sync"

	"golang.org/x/sys/unix"
)

// A reaper collects every child of PID 1, orphans included, and tells those
// who watch one how it ended. A child may end before the fork that made it has
// returned, so statuses that nobody knows are kept while a fork is under way.
type reaper struct {
	mu      sync.Mutex
	forked  *sync.Cond                    // births went up
	births  uint64                        // forks that returned
	forks   int                           // forks under way
	unclear map[int]unix.WaitStatus       // ended, but watch may still come
	fresh   map[int]bool                  // forked, but watch has not come
	watched map[int]func(unix.WaitStatus) // called once, without mu
}

func newReaper() *reaper {
	r := &reaper{
		unclear: make(map[int]unix.WaitStatus),
		fresh:   make(map[int]bool),
		watched: make(map[int]func(unix.WaitStatus)),
	}
	r.forked = sync.NewCond(&r.mu)
	return r
}

// fork runs f, which forks and returns a pid that watch must be called with.
func (r *reaper) fork(f func() (int, error)) (int, error) {
	r.mu.Lock()
	r.forks++
	r.mu.Unlock()
	pid, err := f()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forks--
	r.births++
	r.forked.Broadcast()
	if err == nil {
		r.fresh[pid] = true
	}
	for stray := range r.unclear {
		if r.forks == 0 && !r.fresh[stray] {
			delete(r.unclear, stray) // an orphan's
		}
	}
	return pid, err
}

// watch calls ended when the child pid has ended; at once if it has already.
func (r *reaper) watch(pid int, ended func(unix.WaitStatus)) {
	r.mu.Lock()
	delete(r.fresh, pid)
	status, over := r.unclear[pid]
	if over {
		delete(r.unclear, pid)
	} else {
		r.watched[pid] = ended
	}
	r.mu.Unlock()
	if over {
		ended(status)
	}
}

// run collects for ever and tells of each child that nobody watched.
func (r *reaper) run(orphan func()) {
	for {
		r.mu.Lock()
		births := r.births
		r.mu.Unlock()
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.ECHILD: // until there is a child again
			r.mu.Lock()
			for r.births == births {
				r.forked.Wait()
			}
			r.mu.Unlock()
		case err == nil && pid > 0:
			if !r.collected(pid, status) {
				orphan()
			}
		}
	}
}

// collected tells who watches the child, false if nobody does.
func (r *reaper) collected(pid int, status unix.WaitStatus) bool {
	r.mu.Lock()
	ended := r.watched[pid]
	delete(r.watched, pid)
	if ended == nil && (r.forks > 0 || r.fresh[pid]) {
		r.unclear[pid] = status
	}
	r.mu.Unlock()
	if ended != nil {
		ended(status)
	}
	return ended != nil
}
