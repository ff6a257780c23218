package spawn

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The reaper collects children of the whole process, so it runs in a process
// of its own: this test binary, called again.
func TestMain(m *testing.M) {
	if os.Getenv("CARREL_TEST_REAPER") == "1" {
		os.Exit(reapMany())
	}
	if scene := os.Getenv("CARREL_TEST_THREADS"); scene != "" {
		fmt.Println(growth(scene))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// reapMany forks children from several goroutines at once, each to end with a
// status of its own, some before their fork returns; none may be lost.
func reapMany() int {
	r := newReaper()
	go r.run(func() {})
	const workers, each = 8, 40
	var all sync.WaitGroup
	bad := make(chan int, workers*each)
	for w := range workers {
		all.Go(func() {
			for i := range each {
				want := (w*each + i) % 200
				pid, err := r.fork(func() (int, error) {
					return syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit " + itoa(want)}, &syscall.ProcAttr{})
				})
				if err != nil {
					bad <- -1
					continue
				}
				done := make(chan unix.WaitStatus, 1)
				r.watch(pid, func(s unix.WaitStatus) { done <- s })
				if s := <-done; s.ExitStatus() != want {
					bad <- s.ExitStatus()
				}
			}
		})
	}
	all.Wait()
	if len(bad) > 0 {
		return 1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watched)+len(r.fresh)+len(r.unclear) != 0 {
		return 2
	}
	return 0
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func TestReaperLosesNoStatus(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess(own, []string{own}, &os.ProcAttr{
		Env: append(os.Environ(), "CARREL_TEST_REAPER=1"), Files: []*os.File{nil, os.Stdout, os.Stderr},
	})
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Wait()
	if err != nil || !state.Success() {
		t.Errorf("reaper: %v, %v; want every status once and nothing kept", state, err)
	}
}
