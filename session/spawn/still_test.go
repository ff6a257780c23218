package spawn

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func collections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumGC
}

var garbage []byte // escapes

func litter() {
	for range 64 {
		garbage = make([]byte, 1<<20)
	}
}

// No collection begins while a fork is under way, neither by need nor because
// the container is idle.
func TestStill(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	s := &Server{program: func() [][2]uintptr { return nil }}
	over := s.still()
	before := collections()
	litter()
	s.trim()
	time.Sleep(trimTime + trimTime/2)
	if now := collections(); now != before {
		t.Errorf("%d collections during a fork; want none", now-before)
	}
	over()
	// The twin: both happen afterwards.
	for deadline := time.Now().Add(10 * time.Second); collections() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no collection after the fork, either")
		}
	}
	before = collections()
	litter()
	if collections() == before {
		t.Error("litter is not collected at all; the test shows nothing")
	}
}
