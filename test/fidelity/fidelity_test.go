//go:build fidelity

package fidelity

import (
	"sync"
	"testing"
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
const atOnce = 4

// TestFidelity measures every feature at every door and holds the result
// against TABLE.md.
func TestFidelity(t *testing.T) {
	f := setup(t)
	measured := newTable(f.doors)
	complete := true
	for _, r := range rows() {
		ran := t.Run(r.feature, func(t *testing.T) { f.measure(t, r, measured) })
		complete = complete && ran && len(measured.cells[r.feature]) > 0
	}
	measured.hold(t, complete)
}

// measure measures one row.
func (f *fixture) measure(t *testing.T, r row, into *table) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, d := range f.doors {
		if !r.at(d) {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			s := &scene{fixture: f, door: d}
			defer s.close()
			into.set(r.feature, d, r.check(s))
		})
	}
	wg.Wait()
	into.report(t, r.feature)
}
