package spawn

import (
	"runtime"
	"sync"
	"time"
)

// spare is how many threads init makes before it serves, beside the three that
// a Go program with a locked first thread has: the one that serves, the
// runtime's monitor, and the one that it makes threads from. With these there
// are as many as can be wanted at once:
//
//	2 wait in the kernel for ever: Reap and controls.run
//	1 is in the kernel for whoever has their turn (turns)
//	1 waits for the next timer (findRunnable in runtime/proc.go)
//	2 run, or look for what they could run: GOMAXPROCS
//
// That is six, of which the runtime makes two at least by itself while it makes
// these; TestThreads looks whether they suffice. Each costs some 35 KiB, 20 of
// them the kernel's, which counts in what an idle container takes.
const spare = 4

// reserve makes n threads, which then idle: the runtime keeps them for whatever
// wants one. Init counts under its user's pids.max, and to the runtime a thread
// that cannot be made is fatal (newosproc in runtime/os_linux.go): without
// these, a user at the limit would lose the container to the next goroutine
// that waits in the kernel.
func reserve(n int) {
	var made, over sync.WaitGroup
	made.Add(n)
	over.Add(n)
	release := make(chan struct{})
	for range n {
		go func() {
			defer over.Done()
			runtime.LockOSThread() // nobody else's as long as this one waits
			defer runtime.UnlockOSThread()
			made.Done()
			<-release
		}()
	}
	made.Wait()
	close(release)
	over.Wait()
}

// turns has those who do something beside the threads of Serve, Reap and
// controls do it one after the other: whoever is in the kernel takes up a
// thread, whoever waits for their turn does not.
type turns struct{ mu sync.Mutex } // locked before any other

func (t *turns) take(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
}

// after takes a turn after d.
func (t *turns) after(d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(d, func() { t.take(f) })
}
