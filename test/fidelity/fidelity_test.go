package fidelity

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// A row is a feature and how it is measured.
type row struct {
	feature string
	// at says at which doors the feature can be measured.
	at func(*door) bool
	// check returns nil if the door has the feature, else what is wrong.
	check func(*scene) error
}

// Where a row is measured.
func everywhere(*door) bool { return true }
func atMain(d *door) bool   { return d.native() || d.client == goCrypto }
func atNative(d *door) bool { return d.native() }
func atSSH(d *door) bool    { return d.client == openSSH }
func only(mode string) func(*door) bool {
	return func(d *door) bool { return d.native() && d.mode == mode }
}

// rows are all features, in the order of the table.
func rows() []row {
	var all []row
	for _, group := range [][]row{exitRows, streamRows, endRows, terminalRows, loginRows, transferRows, agentRows, clientRows,
		environmentRows, programRows, automationRows} {
		all = append(all, group...)
	}
	return all
}

// atOnce bounds how many doors are measured at the same time.
const atOnce = 6

// TestFidelity measures every feature at every door and holds the result
// against the README. Doors wait for their clients most of the time, so many
// rows are under way at once; each account is in one of them at a time.
func TestFidelity(t *testing.T) {
	f := setup(t)
	measured := newTable(f.doors)
	t.Run("row", func(t *testing.T) {
		for _, r := range rows() {
			t.Run(r.feature, func(t *testing.T) {
				t.Parallel()
				f.measure(t, r, measured)
			})
		}
	})
	measured.hold(t)
}

// measure measures one row.
func (f *fixture) measure(t *testing.T, r row, into *table) {
	begin := time.Now()
	var wg sync.WaitGroup
	var spent atomic.Int64
	for _, d := range f.doors {
		if !r.at(d) {
			continue
		}
		wg.Go(func() {
			defer f.lock(d.user)()
			f.slots <- struct{}{}
			defer func() { <-f.slots }()
			s := &scene{fixture: f, door: d}
			defer s.close()
			defer func(begin time.Time) { spent.Add(int64(time.Since(begin))) }(time.Now())
			into.set(r.feature, d, r.check(s))
		})
	}
	wg.Wait()
	t.Logf("%v at all doors, over after %v", time.Duration(spent.Load()).Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	into.report(t, r.feature)
}

// lock has the account to oneself until the function that it returns is called.
func (f *fixture) lock(a host.Account) (unlock func()) {
	f.mu.Lock()
	mine := f.locks[a.Name]
	if mine == nil {
		mine = new(sync.Mutex)
		f.locks[a.Name] = mine
	}
	f.mu.Unlock()
	mine.Lock()
	return mine.Unlock
}
