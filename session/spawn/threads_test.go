package spawn

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// growthOf calls this test binary again, for threads do not end.
func growthOf(t *testing.T, scene string) (n int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CARREL_TEST_THREADS="+scene)
	out, err := cmd.CombinedOutput()
	if err == nil {
		_, err = fmt.Sscan(string(out), &n)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", scene, err, out)
	}
	return n
}

// growth returns how many threads a scene makes.
func growth(scene string) int {
	runtime.GOMAXPROCS(2)
	runtime.LockOSThread() // as cmd/carrel-init
	if scene != "bare" {
		reserve(spare)
	}
	time.Sleep(10 * time.Millisecond) // until those that are under way are made
	before := threads()
	// As Reap and controls do, and whoever has their turn.
	after, stay := new(turns).after, 20*time.Millisecond
	if scene == "crowd" {
		after, stay = time.AfterFunc, 500*time.Millisecond
	}
	inKernel := func() {
		pause := unix.NsecToTimespec(int64(stay))
		_ = unix.Nanosleep(&pause, nil)
	}
	for range 2 {
		go func() {
			for {
				inKernel()
			}
		}()
	}
	var over sync.WaitGroup
	for range 32 {
		over.Add(1)
		after(time.Millisecond, func() {
			defer over.Done()
			inKernel()
		})
	}
	over.Wait()
	return threads() - before
}

func threads() int {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// Init makes no thread after the first ones, however much there is to do
// beside the sessions.
func TestReserve(t *testing.T) {
	for range 5 {
		if n := growthOf(t, "turns"); n != 0 {
			t.Errorf("%d more threads; want none", n)
		}
	}
	// The twins: without the reserve, or without turns, there are more.
	for _, scene := range []string{"bare", "crowd"} {
		if n := growthOf(t, scene); n <= 0 {
			t.Errorf("%s: %d more threads; the test shows nothing", scene, n)
		}
	}
}
